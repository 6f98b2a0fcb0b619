"""Published numbers that stand nearest to a run, on whatever data: a paper's purifier under attacks of one family.

A family is what an attacker does, whatever his budget and number of steps: PGD on one view of the defence, APGD,
AutoAttack, and so on. Papers name attacks in their own way; here both sides are sorted into families.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from lit_pursamere.report.published import (
    Published,
    all_published,
    differences,
    plain,
    plain_attack,
    plain_system,
    same_classifier,
)
from lit_pursamere.report.runs import AttackInfo, Run

__all__ = [
    "NEAREST_FIELDS",
    "Nearest",
    "family",
    "nearest",
    "nearest_cell",
    "nearest_note",
    "nearest_record",
    "published_family",
]

NEAREST_FIELDS: dict[str, type] = {
    "nearest_attack": str, "nearest_clean": float, "nearest_robust": float, "nearest_in": str, "nearest_differs": str,
}  # fmt: skip
VIEWS = {"gray": "gPGD", "bpda": "BPDA", "exact": "PGD"}  # PGD by the view that it differentiates
PUBLISHED = {"gPGD": "gpgd.*", "BPDA": "bpda.*", "PGD": "pgd.*", "APGD": "apgd.*", "AutoAttack": "autoattack|aarand"}
ALIKE = {"CarliniWagnerL2": "CW"}


class Nearest(NamedTuple):
    """A published number, the name of our attack that it stands beside, and `differences` between them."""

    attack: str
    cell: Published
    differences: dict[str, str]

    @property
    def here(self) -> bool:
        """Whether it is of the same data set and budget."""
        return not self.differences.keys() & {"dataset", "budget"}

    @property
    def namesake(self) -> bool:
        """Whether it is of an attack of that very name, on the same data set within the same budget."""
        return self.here and plain_attack(self.cell.attack) == plain_attack(self.attack)


def family(attack: AttackInfo) -> str:
    """The family of an attack of ours, "BPDA"; empty where nothing is known of it."""
    name = attack.kind
    return VIEWS.get(str(attack.view), "") if name == "PGD" else ALIKE.get(name, name)


def published_family(attack: str) -> str:
    """The family of an attack as a table of a paper names it."""
    for found, pattern in PUBLISHED.items():
        if re.fullmatch(pattern, plain_attack(attack)):
            return found
    return attack


def nearest(run: Run, system: str, elsewhere: bool = False) -> list[Nearest]:
    """Published numbers beside the attacks of a run.

    For every attack that a paper has under that very name, on that data set, within that budget, the paper's number;
    for every other family of attacks the one that comes nearest.

    A number belongs to a run if its system has the class of ours and the run's label begins with its name, so that what
    is called MagNet does not get MALADE's. Nearer are, in this order, the same data set, a classifier that the label
    names, numbers without doubts, fewer other settings of the purifier, fewer of the attack, more draws, and the closer
    budget.

    Args:
        run: The run; its label is the name that its purifier was given.
        system: Name of the system, the purifier's class.
        elsewhere: Whether numbers of other data sets and budgets count as well. Beside other images, or another budget,
            a number says little, and looks as if it said much.
    """
    ours = plain_system(system)
    called = ours == "undefended" or plain(run.label).startswith(ours)
    cells = [cell for cell in all_published() if called and plain(cell.system) == ours]
    found: list[Nearest] = []
    families: set[str] = set()
    for name, attack in run.attacks.items():
        near = [Nearest(name, cell, differences(cell, run, system, name)) for cell in cells]
        alike = [one for one in near if one.namesake]
        if not alike and (kind := family(attack)) not in families:
            alike = [one for one in near if published_family(one.cell.attack) == kind]
            alike = [one for one in alike if one.cell.norm in (None, attack.norm) and (elsewhere or one.here)]
        if alike:
            found.append(min(alike, key=lambda one: distance(one, run, attack)))
            families.add(family(attack))
    return found


def distance(near: Nearest, run: Run, attack: AttackInfo) -> tuple:
    """How far a published number is from an attack of a run; smaller is nearer."""
    cell, names = near.cell, near.differences.keys() - {"dataset", "budget"}
    attacks = sum(name.startswith("attack.") for name in names)
    return (
        "dataset" in near.differences,
        not same_classifier(cell, run),
        bool(cell.doubtful),
        len(names) - attacks,
        attacks,
        -int(cell.settings.get("attack.eot", 0)),
        math.inf if attack.eps is None or cell.eps is None else abs(cell.eps - attack.eps),
    )


def nearest_cell(papers: Sequence[Nearest]) -> str:
    """Published numbers in short: clean / under the attack that leaves least; doubtful ones last."""
    cell = min((near.cell for near in papers), key=lambda cell: (bool(cell.doubtful), cell.robust))
    return f"{'?' if cell.clean is None else f'{cell.clean:g}'} / {cell.robust:g}"


def nearest_record(papers: Sequence[Nearest], attack: str) -> dict[str, object]:
    """The entries NEAREST_FIELDS of a record of an attack; empty if no published number stands there."""
    for name, cell, differing in papers:
        if name == attack:
            values = cell.attack, cell.clean, cell.robust, cell.label, "; ".join(differing.values())
            return dict(zip(NEAREST_FIELDS, values, strict=True))
    return {}


def nearest_note(name: str, papers: Sequence[Nearest]) -> str:
    """The footnote of a row: what papers report, where, all in which it differs from what stands beside it, doubts."""
    parts = []
    for attack, cell, differing in papers:
        clean = "" if cell.clean is None else f"{cell.clean:g} clean, "
        n = "" if cell.n is None else f"n = {cell.n}"
        where = ", ".join(part for part in (cell.source, cell.classifier, n) if part)
        doubt = [f"doubtful: {cell.doubtful}"] if cell.doubtful else []
        circumstances = "; ".join([where, *differing.values(), *doubt])
        parts.append(f"{clean}{cell.robust:g} under {cell.attack} ({circumstances}), beside {attack} here")
    return f"{name}: {'; '.join(parts)}."
