"""Reports of evaluations: one line per system and attack, and what is written down of it, as text by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from lit_pursamere.report.lines import Line, lines_of
from lit_pursamere.report.notes import detection_notes, explanation, incomplete, other_weights, semantics
from lit_pursamere.report.runs import Run, check_comparable, differences, read_runs
from lit_pursamere.report.statistics import INTERVALS
from lit_pursamere.report.verdicts import components, other_reading

__all__ = ["Report", "make_report"]


@dataclass(frozen=True)
class Report:
    """A table of one or several runs.

    Args:
        runs: The runs, in order.
        interval: One of INTERVALS.

    Raises:
        ValueError: If there are no runs, or the interval is unknown.
    """

    runs: tuple[Run, ...]
    interval: str = "wilson"

    name: ClassVar[str] = "report"  # of the files that it is written to
    ruled: ClassVar[tuple[str, ...]] = ("run", "system")  # leading columns; where one changes, a rule helps the eye
    csv_head: ClassVar[tuple[str, ...]] = (
        "run", "dataset", "system", "attack", "semantics", "headline", "correct", "n", "accuracy", "low", "high",
        "interval", "seconds", "published", "published_in", "doubtful", "rejected", "auc",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("a report needs at least one run; got none")
        if self.interval not in INTERVALS:
            raise ValueError(f"interval must be one of {', '.join(INTERVALS)}; got {self.interval!r}")

    @cached_property
    def lines(self) -> list[Line]:
        """The lines of the table: by run, system and attack, the worst cases last."""
        return [line for run in self.runs for line in lines_of(run)]

    @property
    def several(self) -> bool:
        """Whether lines must say which run they belong to."""
        return len(self.runs) > 1

    def system_of(self, line: Line) -> str:
        """Name of a line's system, and that of its run where there are several."""
        return f"{line.system} ({line.run.label})" if self.several else line.system

    @property
    def columns(self) -> dict[str, list[str]]:
        """The table as text: the cells of every column."""
        successes = {run.success for run in self.runs}
        headline = f"accuracy ({successes.pop()})" if len(successes) == 1 else "accuracy"
        besides = [column for run in self.runs for column in _columns_beside(run.success)]
        columns: dict[str, Callable[[Line], str]] = {
            "run": lambda line: line.run.label if self.several else "",
            "system": lambda line: line.system,
            "attack": lambda line: line.attack,
            headline: lambda line: line.headline.text(self.interval),
            **{column: partial(self._beside, column) for column in besides},
            "rejected": lambda line: line.detection.rejected.text(self.interval) if line.detection else "",
            "AUC": lambda line: _auc(line, 3),
            "n": lambda line: str(line.headline.n),
            "s/image": lambda line: "" if line.seconds is None else f"{line.seconds:.2g}",
            "published": self._published,
        }
        return {name: [text(line) for line in self.lines] for name, text in columns.items()}

    @property
    def notes(self) -> list[str]:
        """What stands below the table: the first note explains the numbers, others stand only where needed."""
        found = [f"{explanation(self.runs, self.interval)}. {semantics(self.runs)}", *detection_notes(self.lines)]
        if any(line.paper_value is not None for line in self.lines):
            found.append("Published numbers come from the papers' own weights, images and judging.")
        if differing := differences(self.runs):
            found.append(f"These runs differ in more than systems and attacks: {'; '.join(differing)}.")
        found += other_weights(self.runs)
        return found + [note for run in self.runs for note in incomplete(run, self.several)]

    @property
    def footnotes(self) -> list[str]:
        """What cells refer to by number, from 1."""
        return [f"Doubtful: {doubt}." for doubt in self._doubts]

    def record(self, line: Line, semantics: str) -> dict[str, object]:
        """A line by one of its semantics as the CSV has it; accuracies in [0, 1], published ones in %."""
        cell, known = line.accuracies[semantics], line.paper_value is not None
        low, high = INTERVALS[self.interval](cell.correct, cell.n)
        values = (
            line.run.label, line.run.dataset, line.system, line.attack, semantics,
            "yes" if semantics == line.semantics else "no",
            f"{cell.correct:.10g}", cell.n, f"{cell.value:.6f}", f"{low:.6f}", f"{high:.6f}", self.interval,
            "" if line.seconds is None else f"{line.seconds:.6g}",
            f"{line.paper_value:g}" if known else "", line.paper_label if known else "", line.doubt,
            f"{line.detection.rejected.value:.6f}" if line.detection else "", _auc(line, 6),
        )  # fmt: skip
        return dict(zip(Report.csv_head, values, strict=True))

    @cached_property
    def _doubts(self) -> list[str]:
        return list(dict.fromkeys(line.doubt for line in self.lines if line.doubt))

    def _beside(self, column: str, line: Line) -> str:
        """Accuracy by a semantics beside the headline, if it says something new."""
        found: dict[str, str] = {}
        for name in _columns_beside(line.run.success):
            if (judged := line.nearest(name)) not in (line.semantics, *found.values()):
                found[name] = judged
        return line.accuracies[found[column]].text(self.interval) if column in found else ""

    def _published(self, line: Line) -> str:
        if line.paper_value is None:
            return ""
        doubt = f" [{self._doubts.index(line.doubt) + 1}]" if line.doubt else ""
        return f"{line.paper_value:g} ({line.paper_label}){doubt}"


def make_report(folders: Sequence[str | Path], interval: str = "wilson", mix: bool = False) -> Report:
    """Read one or several evaluations into one table.

    Args:
        folders: Output folders of `lit-pursamere test`.
        interval: `wilson` or `clopper-pearson`.
        mix: Whether runs may differ in more than systems and attacks; a note then says in what.

    Raises:
        FileNotFoundError: If a folder holds no records.
        ValueError: If records are damaged, or runs differ in more than systems and attacks without `mix`.
    """
    runs = read_runs(folders)
    if not mix:
        check_comparable(runs)
    return Report(tuple(runs), interval)


def _columns_beside(success: str) -> tuple[str, ...]:
    """Semantics beside the headline: at the last iterate, and both with rejected images counted the other way."""
    last = f"last{components(success)[2]}"
    return last, other_reading(success), other_reading(last)


def _auc(line: Line, digits: int) -> str:
    return f"{line.detection.auc:.{digits}f}" if line.detection and line.detection.auc is not None else ""
