"""What an evaluation has found: its table in every form, its rows, its figures, its folder."""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lit_pursamere.report import Accuracy, as_markdown, make_report
from lit_pursamere.report.headline import worst_line
from lit_pursamere.report.report import Report
from lit_pursamere.store.records import Row

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["Result"]


class Result:
    """The verdicts of an evaluation.

    Args:
        folder: Of the run.
        place: The temporary folder that is kept for as long as this is, if it is one.
    """

    def __init__(self, folder: Path, place: tempfile.TemporaryDirectory | None = None) -> None:
        self.folder, self._place = folder, place

    @cached_property
    def report(self) -> Report:
        """The report of the run."""
        return make_report([self.folder])

    @property
    def rows(self) -> list[Row]:
        """A row per system, attack and image, see `store.records`."""
        return self.report.runs[0].rows

    @property
    def worst_case(self) -> Accuracy:
        """Images that the defence gets right clean and under every attack: `.value` in [0, 1], `.correct` of `.n`."""
        return worst_line(self.report).headline

    @property
    def configuration(self) -> Path | None:
        """The file by which `lit-pursamere test --config` repeats the run; None if a part of it was an object."""
        file = self.folder / "config.yaml"
        return file if file.is_file() else None

    def table(self) -> str:
        """The table with its notes, in Markdown."""
        return as_markdown(self.report)

    def to_pandas(self) -> pandas.DataFrame:
        """A row per system, attack and semantics, as report.csv has them; accuracies in [0, 1].

        Raises:
            ModuleNotFoundError: If pandas is not installed.
        """
        import pandas

        lines = self.report.lines
        return pandas.DataFrame([self.report.record(line, name) for line in lines for name in line.accuracies])

    def to_html(self) -> str:
        """The whole report as one page that needs nothing from elsewhere, see `report.html`."""
        from lit_pursamere.report.html import as_html

        return as_html(self.report)

    def _repr_html_(self) -> str:
        """The table, for notebooks; whatever others called their classes and attacks as text."""
        columns = {name: cells for name, cells in self.report.columns.items() if any(cells)}
        head = "".join(f"<th>{escape(name)}</th>" for name in columns)
        rows = zip(*columns.values(), strict=True)
        body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.report.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def plot(self, kind: str = "worst-case") -> Figure:
        """Draw what the records allow, see `report.plots`.

        Args:
            kind: `worst-case`, accuracy of every system under every attack; `accuracy-eps` and `accuracy-steps`, of
                attacks that differ in nothing else; `survival` over the steps of each attack; `roc` of a detector.

        Raises:
            ValueError: If there is no such figure, or the records do not hold what it is about.
        """
        from lit_pursamere.report.plots import FIGURES

        if kind not in FIGURES:
            raise ValueError(f"a figure is one of {', '.join(FIGURES)}; got {kind!r}")
        return FIGURES[kind](self.report)

    def save(self, folder: str | Path) -> Path:
        """Keep the folder of the run: a copy under another name; returns its path.

        Raises:
            FileExistsError: If there is something of that name.
        """
        target = Path(folder)
        if target.exists():
            raise FileExistsError(f"{target} is there already; choose another folder")
        shutil.copytree(self.folder, target)
        return target

    def __repr__(self) -> str:
        run, worst = self.report.runs[0], self.worst_case
        return f"<{run.system}: {100 * worst.value:.1f} % of {worst.n} images withstand {', '.join(run.attacks)}>"
