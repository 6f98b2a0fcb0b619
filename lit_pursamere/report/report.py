"""Reports of evaluations: one line per system and attack, and what is written down of it, as text by column."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

from lit_pursamere.report.cautions import cautions
from lit_pursamere.report.lines import Line, lines_of
from lit_pursamere.report.notes import (
    detection_notes,
    explanation,
    gathered,
    incomplete,
    other_weights,
    pair_notes,
    semantics,
)
from lit_pursamere.report.paired import Pair, pairs_of
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
    fields: ClassVar[dict[str, type]] = {
        "run": str, "dataset": str, "system": str, "attack": str, "semantics": str, "headline": bool, "correct": float,
        "n": int, "accuracy": float, "low": float, "high": float, "interval": str, "seconds": float,
        "published": float, "published_in": str, "doubtful": str, "rejected": float, "auc": float,
    }  # fmt: skip

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
            "AUC": lambda line: "" if not line.detection or line.detection.auc is None else f"{line.detection.auc:.3f}",
            "n": lambda line: str(line.headline.n),
            "s/image": lambda line: "" if line.seconds is None else f"{line.seconds:.2g}",
            "published": self._published,
        }
        return {name: [text(line) for line in self.lines] for name, text in columns.items()}

    @cached_property
    def pairs(self) -> list[Pair]:
        """The first run against each of the others, image by image, where they have the same images."""
        return pairs_of(self.runs)

    @property
    def pair_columns(self) -> dict[str, list[str]]:
        """The table of `pairs` as text; accuracies in %, differences in points, with 95 % intervals."""
        several = len(self.runs) > 2
        columns: dict[str, Callable[[Pair], str]] = {
            "run": lambda pair: pair.second if several else "",
            "system": lambda pair: " against ".join(dict.fromkeys(reversed(pair.systems))),
            "attack": lambda pair: pair.attack,
            "difference": _difference,
            f"only {self.runs[0].label if self.runs else ''}": lambda pair: str(pair.only_first),
            "only the other" if several else f"only {self.runs[-1].label if self.runs else ''}": (
                lambda pair: str(pair.only_second)
            ),
            "n": lambda pair: str(pair.n),
            "p": lambda pair: f"{pair.p:.2g}",
        }
        return {name: [text(pair) for pair in self.pairs] for name, text in columns.items()}

    @property
    def notes(self) -> list[str]:
        """What stands below the table: the first note explains the numbers, others stand only where needed."""
        found = [f"{explanation(self.runs, self.interval)}. {semantics(self.runs)}", *detection_notes(self.lines)]
        if any(line.paper_value is not None for line in self.lines):
            found.append("Published numbers come from the papers' own weights, images and judging.")
        if differing := differences(self.runs):
            found.append(f"These runs differ in more than systems and attacks: {'; '.join(differing)}.")
        found += [*pair_notes(self.runs, self.pairs), *other_weights(self.runs)]
        return found + [note for run in self.runs for note in incomplete(run, self.several)]

    @cached_property
    def cautions(self) -> list[str]:
        """Where a reader would be misled, see `report.cautions`; those of several systems in common stand once."""
        found: dict[str, list[str]] = {}
        for run in self.runs:
            lines = [line for line in self.lines if line.run is run]
            for name, text in cautions(run, lines, self.interval, partial(self._subject, run)):
                found.setdefault(text, []).append(name)
        return gathered(found)

    @property
    def footnotes(self) -> list[str]:
        """What cells refer to by number, from 1."""
        return [f"Doubtful: {doubt}." for doubt in self._doubts]

    def record(self, line: Line, semantics: str) -> dict[str, object]:
        """A line by one of its semantics as values by `fields`; accuracies in [0, 1], published ones in %."""
        cell, known = line.accuracies[semantics], line.paper_value is not None
        low, high = INTERVALS[self.interval](cell.correct, cell.n)
        values = (
            line.run.label, line.run.dataset, line.system, line.attack, semantics, semantics == line.semantics,
            float(cell.correct), cell.n, cell.value, low, high, self.interval, line.seconds, line.paper_value,
            line.paper_label if known else "", line.doubt, line.detection.rejected.value if line.detection else None,
            line.detection.auc if line.detection else None,
        )  # fmt: skip
        return dict(zip(Report.fields, values, strict=True))

    def _subject(self, run: Run, system: str) -> str:
        """Whom a caution is about."""
        return f"{system} ({run.label})" if system and self.several else system or (run.label if self.several else "")

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


def _difference(pair: Pair) -> str:
    """A difference in points with its interval, "-7.0 [-13.1, -1.0]"."""
    low, high = pair.interval
    return f"{100 * pair.difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
