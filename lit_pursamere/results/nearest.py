"""Published numbers that stand nearest to a run, on whatever data: a paper's purifier under attacks of one family.

A family is what an attacker does, whatever his budget and number of steps: PGD on one view of the defence, APGD,
AutoAttack, and so on. Papers name attacks in their own way; here both sides are sorted into families.
"""

from __future__ import annotations

import math
import re

from lit_pursamere.results.published import Published, all_published, assignments, plain, plain_attack
from lit_pursamere.results.runs import AttackInfo, Run

__all__ = ["family", "nearest", "published_family"]

VIEWS = {"gray": "gPGD", "bpda": "BPDA", "exact": "PGD"}  # PGD by the view that it differentiates
PUBLISHED = {"gPGD": "gpgd.*", "BPDA": "bpda.*", "PGD": "pgd.*", "APGD": "apgd.*", "AutoAttack": "autoattack|aarand"}
ALIKE = {"CarliniWagnerL2": "CW"}


def family(attack: AttackInfo) -> str:
    """The family of an attack of ours, "BPDA"; empty where nothing is known of it."""
    name = attack.text.partition("(")[0]
    return VIEWS.get(str(attack.gradient), "") if name == "PGD" else ALIKE.get(name, name)


def published_family(attack: str) -> str:
    """The family of an attack as a table of a paper names it."""
    for found, pattern in PUBLISHED.items():
        if re.fullmatch(pattern, plain_attack(attack)):
            return found
    return attack


def nearest(run: Run, system: str) -> list[tuple[str, Published]]:
    """For every family of attacks of a run the published number that comes nearest, with the name of our attack.

    A number belongs to a run if its system has the class of ours and the run's label begins with its name, so that what
    is called MagNet does not get MALADE's; or if its setting is the name of our class (`extra corrector`). Nearer are,
    in this order, the same data set, numbers without doubts, settings that description and label confirm, as many
    steps, and more draws.

    Args:
        run: The run; its label is the name that its purifier was given.
        system: Name of the system, the purifier's class.
    """
    label = plain(run.label)
    ours = plain("undefended" if system == "Identity" else system)
    cells = [
        cell
        for cell in all_published()
        if (plain(cell.system) == ours and (ours == "undefended" or label.startswith(ours)))
        or plain(cell.setting) == ours
    ]
    found: dict[str, tuple[str, Published]] = {}
    for name, attack in run.attacks.items():
        kind = family(attack)
        alike = [cell for cell in cells if published_family(cell.attack) == kind and cell.norm in (None, attack.norm)]
        if alike and kind not in found:
            found[kind] = name, min(alike, key=lambda cell: distance(cell, run, system, attack))
    return list(found.values())


def distance(cell: Published, run: Run, system: str, attack: AttackInfo) -> tuple:
    """How far a published number is from an attack of a run; smaller is nearer."""
    words = {plain(word) for word in re.findall(r"\w+", f"{run.label} {run.description(system)}")}
    confirmed = words.union(assignments(run.description(system)))
    draws = re.search(r"EoT(\d+)", cell.attack)
    return (
        cell.dataset != run.dataset,
        bool(cell.doubtful),
        sum(part not in confirmed and plain(part) not in confirmed for part in cell.setting.split()),
        cell.steps != attack.steps,
        -int(draws[1]) if draws else 0,
        math.inf if attack.eps is None or cell.eps is None else abs(cell.eps - attack.eps),
    )
