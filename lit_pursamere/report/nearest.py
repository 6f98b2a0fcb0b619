"""Published numbers that stand nearest to a run, on whatever data: a paper's purifier under attacks of one family.

A family is what an attacker does, whatever his budget and number of steps: PGD on one view of the defence, APGD,
AutoAttack, and so on. Papers name attacks in their own way; here both sides are sorted into families.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from lit_pursamere.report.published import (
    Published,
    all_published,
    differences,
    plain,
    plain_attack,
    plain_system,
)
from lit_pursamere.report.runs import AttackInfo, Run

__all__ = ["Nearest", "family", "nearest", "published_family"]

VIEWS = {"gray": "gPGD", "bpda": "BPDA", "exact": "PGD"}  # PGD by the view that it differentiates
PUBLISHED = {"gPGD": "gpgd.*", "BPDA": "bpda.*", "PGD": "pgd.*", "APGD": "apgd.*", "AutoAttack": "autoattack|aarand"}
ALIKE = {"CarliniWagnerL2": "CW"}


class Nearest(NamedTuple):
    """A published number, the name of our attack that it stands beside, and `differences` between them."""

    attack: str
    cell: Published
    differences: dict[str, str]


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


def nearest(run: Run, system: str) -> list[Nearest]:
    """For every family of attacks of a run the published number that comes nearest.

    A number belongs to a run if its system has the class of ours and the run's label begins with its name, so that what
    is called MagNet does not get MALADE's. Nearer are, in this order, the same data set, numbers without doubts, fewer
    other settings of the purifier, fewer of the attack, more draws, and the closer budget.

    Args:
        run: The run; its label is the name that its purifier was given.
        system: Name of the system, the purifier's class.
    """
    ours = plain_system(system)
    called = ours == "undefended" or plain(run.label).startswith(ours)
    cells = [cell for cell in all_published() if called and plain(cell.system) == ours]
    found: dict[str, Nearest] = {}
    for name, attack in run.attacks.items():
        kind = family(attack)
        alike = [
            Nearest(name, cell, differences(cell, run, system, name))
            for cell in cells
            if published_family(cell.attack) == kind and cell.norm in (None, attack.norm)
        ]
        if alike and kind not in found:
            found[kind] = min(alike, key=lambda near: distance(near, attack))
    return list(found.values())


def distance(near: Nearest, attack: AttackInfo) -> tuple:
    """How far a published number is from an attack of a run; smaller is nearer."""
    cell, names = near.cell, near.differences.keys() - {"dataset", "budget"}
    attacks = sum(name.startswith("attack.") for name in names)
    return (
        "dataset" in near.differences,
        bool(cell.doubtful),
        len(names) - attacks,
        attacks,
        -int(cell.settings.get("attack.eot", 0)),
        math.inf if attack.eps is None or cell.eps is None else abs(cell.eps - attack.eps),
    )
