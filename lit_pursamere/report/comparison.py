"""A comparison: a report pivoted, one row per purifier and one column per attack, with costs and published numbers.

Every purifier has a run of its own, OUTPUT/NAME.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from lit_pursamere.report.comparison_notes import attack_notes, missing_notes, network_notes
from lit_pursamere.report.costs import COST_FIELDS, cost_cells, cost_notes, cost_record
from lit_pursamere.report.lines import WORST, Line
from lit_pursamere.report.nearest import NEAREST_FIELDS, Nearest, nearest, nearest_cell, nearest_note, nearest_record
from lit_pursamere.report.notes import WORST_NOTE, explanation, meaning, with_exceptions
from lit_pursamere.report.paired import Pair
from lit_pursamere.report.places import Place, varied
from lit_pursamere.report.report import Report
from lit_pursamere.report.runs import FREE, Run, differences, run_of, told
from lit_pursamere.report.verdicts import CLEAN
from lit_pursamere.store.costs import Cost, read_cost
from lit_pursamere.store.manifest import read_manifest

__all__ = ["Comparison", "check_comparison", "read_comparison"]

MAY_DIFFER = (*FREE, "evaluations", "slots")  # how often, and in what batches, is judged
MUST_AGREE = ("view", "norm", "eps")  # of attacks of one name


@dataclass(frozen=True)
class Comparison(Report):
    """A table of purifiers.

    Args:
        runs: A run for every row, labelled by the purifier's name; there may be none.
        interval: One of INTERVALS.
        costs: What a purification costs, by purifier, where it was measured.
        absent: Purifiers of which there is no run yet.
        elsewhere: Whether published numbers of other data sets and budgets may stand beside, too.
        places: By purifier, where those that are swept stand.

    Raises:
        ValueError: If the runs do not compare.
    """

    costs: dict[str, Cost] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    elsewhere: bool = False
    places: dict[str, Place] = field(default_factory=dict)

    name: ClassVar[str] = "comparison"
    ruled: ClassVar[tuple[str, ...]] = ()
    fields: ClassVar[dict[str, type]] = {**Report.fields, "missing": int, **COST_FIELDS, **NEAREST_FIELDS}

    def __post_init__(self) -> None:
        check_comparison(self.runs, self.places)

    @cached_property
    def pivot(self) -> dict[str, dict[str, Line]]:
        """The lines of every purifier by attack: `clean` first, worst cases last."""
        found: dict[str, dict[str, Line]] = {run.label: {} for run in self.runs}
        for line in self.lines:
            found[line.run.label][line.attack] = line
        return found

    @cached_property
    def attacks(self) -> list[str]:
        """Names of clean, attacks and worst cases, in the order of the run that has most of them."""
        runs = sorted(self.runs, key=lambda run: -len(run.attacks))
        names = dict.fromkeys(name for run in runs for name in self.pivot[run.label])
        return sorted(names, key=lambda name: name.startswith(WORST))

    @cached_property
    def images(self) -> int:
        """How many images most rows are about."""
        counts = [run.images for run in self.runs]
        return max(counts, key=lambda count: (counts.count(count), count))

    @cached_property
    def papers(self) -> dict[str, list[Nearest]]:
        """By purifier the nearest published numbers, where there are any."""
        found = {run.label: nearest(run, run.system, self.elsewhere) for run in self.runs}
        return {label: papers for label, papers in found.items() if papers}

    @property
    def pairs(self) -> list[Pair]:
        """None: rows stand in one table already, and pairs of them would be many."""
        return []

    @property
    def columns(self) -> dict[str, list[str]]:
        """The table as text: the cells of every column."""
        rows = [self._row(run) for run in self.runs]
        return {
            name: [row.get(name, "") for row in rows] for name in dict.fromkeys(name for row in rows for name in row)
        }

    @property
    def notes(self) -> list[str]:
        """What stands below the table: what its numbers mean, in what its rows differ, and what is missing."""
        found = []
        if self.runs:
            success = self.runs[0].success
            n = with_exceptions("n =", {run.label: run.images for run in self.runs})
            mean = with_exceptions("verdicts per image", {r.label: r.manifest.get("evaluations", 1) for r in self.runs})
            what = f"{explanation(self.runs, self.interval)}, {n}. {success}: {meaning(success)}; {mean}. {WORST_NOTE}"
            found = [what, *attack_notes(self.runs), *network_notes(self.runs)]
        found += [*cost_notes(self.costs), *missing_notes(self.runs, self.absent)]
        if self.papers:
            found.append(
                "Published: clean / under the attack that leaves least, doubtful ones last, of the families that were "
                "run here, and in brackets under the attack of that very name; weights differ, and so does what the "
                "footnotes name."
            )
        return found

    @property
    def footnotes(self) -> list[str]:
        """What cells refer to by number, from 1."""
        return [nearest_note(label, papers) for label, papers in self.papers.items()]

    def record(self, line: Line, semantics: str) -> dict[str, object]:
        """A line of the CSV as in a report, with the purifier's costs, and the nearest published number beside it.

        `published` is of the same setting, `nearest_robust` of one that differs in what `nearest_differs` names.
        """
        label = line.run.label
        cost = cost_record(self.costs[label]) if label in self.costs else {}
        papers = nearest_record(self.papers.get(label, ()), line.attack)
        return {**super().record(line, semantics), "missing": sum(line.run.missing.values()), **cost, **papers}

    def _subject(self, run: Run, system: str) -> str:
        return run.label if system else ""

    def _row(self, run: Run) -> dict[str, str]:
        label, missing = run.label, sum(run.missing.values())
        row = {"purifier": label + (f" ({missing} verdicts missing)" if missing else "")}
        row |= {attack: self._accuracy(self.pivot[label].get(attack)) for attack in self.attacks}
        row |= cost_cells(self.costs.get(label))
        if label in self.papers:
            row["published"] = f"{nearest_cell(self.papers[label])} [{[*self.papers].index(label) + 1}]"
        return row

    def _accuracy(self, line: Line | None) -> str:
        """Accuracy in %: clean and in the worst case with its interval; a namesake's number; and n if it is not all."""
        if line is None:
            return ""
        papers = [near.cell for near in self.papers.get(line.run.label, ()) if near[0] == line.attack and near.namesake]
        whole = line.attack == CLEAN or line.attack.startswith(WORST)
        text = line.headline.text(self.interval) if whole else f"{100 * line.headline.value:.1f}"
        text += f" ({papers[0].robust:g})" if papers else ""
        return text if line.headline.n == self.images else f"{text}, n = {line.headline.n}"


def read_comparison(
    output: str | Path, names: Iterable[str], elsewhere: bool = False, places: Mapping[str, Place] | None = None
) -> Comparison:
    """Read the runs of purifiers; undefended classifiers come first.

    Args:
        output: Folder of the comparison.
        names: Names of the purifiers, which are those of their folders.
        elsewhere, places: As of `Comparison`.

    Raises:
        ValueError: If a file is damaged, or runs do not compare.
    """
    runs, costs, absent = [], {}, []
    for name in names:
        folder = Path(output) / name
        manifest = read_manifest(folder)
        if manifest is None:
            absent.append(name)
            continue
        runs.append(run_of(folder, name, manifest))
        if cost := read_cost(folder):
            costs[name] = cost
    runs.sort(key=lambda run: run.system != "Identity")
    return Comparison(tuple(runs), costs=costs, absent=tuple(absent), elsewhere=elsewhere, places=dict(places or {}))


def check_comparison(runs: Sequence[Run], places: Mapping[str, Place] | None = None) -> None:
    """Refuse runs that cannot stand in one comparison.

    Raises:
        ValueError: If other images, seeds or headlines were used, or attacks of one name are not the same; the message
            names run and difference. Of the same data fewer images may be attacked in a row, and by fewer attacks;
            what is swept may differ.
    """
    swept = varied((places or {}).values())
    free = (*MAY_DIFFER, "seed") if "seed_everything" in swept else MAY_DIFFER
    for run in runs[1:]:
        pair = runs[0], run
        parts = ("images",) if run.images != runs[0].images else ()  # fewer of the same data, which n tells
        if found := differences(pair, (*free, *parts)) + _other_attacks(*pair, swept):
            raise ValueError(
                f"{run.label} does not compare with {runs[0].label}: {'; '.join(found)}. Purifiers of one comparison "
                "need the same images, seed, headline and attacks; use another `output` folder for other ones"
            )


def _other_attacks(first: Run, other: Run, swept: set[str]) -> list[str]:
    found = []
    for name in [name for name in first.attacks if name in other.attacks]:
        for key in [key for key in MUST_AGREE if key not in swept]:
            values = [getattr(run.attacks[name], key) for run in (first, other)]
            if values[0] != values[1]:
                found.append(told(f"{key} of {name}", values, (first, other)))
    return found
