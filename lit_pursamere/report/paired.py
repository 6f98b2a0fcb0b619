"""Two runs on the same images, image by image: how much better is one, and could that be chance?

    b, c   images that only the first, only the second run gets right        difference = (c - b) / n
    interval   Newcombe (1998), "Improved confidence intervals for the difference between binomial proportions based on
               paired data", method 10: the two Wilson intervals, put together with the correlation of the pairs
    p          McNemar's test, exact: a fair coin falls b times of b + c (McNemar, 1947; two-sided)

What was judged several times counts by majority vote here, because both need a yes or no.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import bdtr

from lit_pursamere.report.lines import WORST
from lit_pursamere.report.runs import Run
from lit_pursamere.report.statistics import wilson
from lit_pursamere.report.verdicts import CLEAN, components, share, stand_ins

__all__ = ["Pair", "mcnemar", "newcombe", "pairs_of", "same_images"]


@dataclass(frozen=True)
class Pair:
    """A system of one run against a system of another, under one attack.

    Args:
        first: Label of the first run.
        second: Label of the second.
        systems: Their systems.
        attack: Name of the attack, `clean`, or the worst case over the attacks that both runs have.
        both: Images that both get right.
        only_first: Images that only the first gets right.
        only_second: Images that only the second gets right.
        neither: Images that none gets right.
    """

    first: str
    second: str
    systems: tuple[str, str]
    attack: str
    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def n(self) -> int:
        """Images, at least 1."""
        return self.both + self.only_first + self.only_second + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the second run less that of the first, in [-1, 1]."""
        return (self.only_second - self.only_first) / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the 95 % interval of the difference, in [-1, 1]."""
        return newcombe(self.both, self.only_second, self.only_first, self.neither)

    @property
    def p(self) -> float:
        """The chance of a difference at least as large, in either direction, if neither was better; in [0, 1]."""
        return mcnemar(self.only_first, self.only_second)


def newcombe(a: int, b: int, c: int, d: int) -> tuple[float, float]:
    """Ends of Newcombe's 95 % interval, method 10, of the difference of two paired shares, (a + b) / n - (a + c) / n.

    Args:
        a: Pairs that are right in both.
        b: Pairs that are right in the first alone.
        c: Pairs that are right in the second alone.
        d: Pairs that are right in neither; there is at least one pair.
    """
    n = a + b + c + d
    p1, p2 = (a + b) / n, (a + c) / n
    (l1, u1), (l2, u2) = wilson(a + b, n), wilson(a + c, n)
    phi = _correlation(a, b, c, d)
    below = math.sqrt(max(0.0, (p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2))
    above = math.sqrt(max(0.0, (u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2))
    return max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above)


def _correlation(a: int, b: int, c: int, d: int) -> float:
    """phi of a table of pairs, corrected for continuity where it is positive; 0 where a margin is empty."""
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    excess: float = a * d - b * c
    if excess > 0:
        excess = max(excess - (a + b + c + d) / 2, 0.0)
    return excess / math.sqrt(margins) if margins else 0.0


def mcnemar(b: int, c: int) -> float:
    """Two-sided p of McNemar's exact test, in [0, 1], for so many pairs that are right in one of two alone."""
    return min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0


def same_images(first: Run, second: Run) -> bool:
    """Whether two runs are about the same images, by what their manifests state: data set, count, digest, indices."""
    return (first.data, first.manifest["images"]) == (second.data, second.manifest["images"])


def pairs_of(runs: Sequence[Run]) -> list[Pair]:
    """The first run against each of the others that has the same images, line by line.

    Compared are the systems that manifests name first, and others of one name if their weights differ; on clean
    images, under attacks of one name and budget, and in the worst case over these.
    """
    found = []
    for other in runs[1:]:
        if same_images(runs[0], other):
            for systems in _systems(runs[0], other):
                found += _pairs(runs[0], other, systems)
    return found


def _systems(first: Run, second: Run) -> list[tuple[str, str]]:
    weights = [run.manifest["weights"] for run in (first, second)]
    others = [name for name in first.systems if name in second.systems and weights[0][name] != weights[1][name]]
    return list(dict.fromkeys([(first.system, second.system), *((name, name) for name in others)]))


def _pairs(first: Run, second: Run, systems: tuple[str, str]) -> list[Pair]:
    shared = [
        name
        for name, info in first.attacks.items()
        if name in second.attacks and info.budget == second.attacks[name].budget
    ]
    tables = [_right(run, system, (CLEAN, *shared)) for run, system in zip((first, second), systems, strict=True)]
    if shared:
        for table in tables:
            table[WORST] = _everywhere(table.values())
    found = []
    for attack in (CLEAN, *shared, *([WORST] if shared else [])):
        one, two = (table[attack] for table in tables)
        cells = [(one[index], two[index]) for index in one.keys() & two.keys()]
        if cells:
            counts = [cells.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))]
            found.append(Pair(first.label, second.label, systems, attack, *counts))
    return found


def _right(run: Run, system: str, attacks: Iterable[str]) -> dict[str, dict[int, bool]]:
    """By attack and image whether a system is right, by majority vote over its verdicts."""
    iterate, verdict, reading = components(run.success)
    wanted = stand_ins(f"{iterate}{verdict or ' vote'}{reading}")
    found: dict[str, dict[int, bool]] = {attack: {} for attack in attacks}
    for row in run.rows:
        if row["system"] == system and row["attack"] in found:
            value = next((value for name in wanted if (value := share(row, name)) is not None), None)
            if value is not None:
                found[str(row["attack"])][int(row["index"])] = value == 1
    return found


def _everywhere(tables: Iterable[dict[int, bool]]) -> dict[int, bool]:
    """Whether an image is right in all of these, for those that stand in all."""
    tables = list(tables)
    return {index: all(t[index] for t in tables) for index in tables[0] if all(index in t for t in tables)}
