"""Curves from records: accuracy against a budget or a number of steps, and survival over the steps of an attack.

Survival is the verdict of the view that the attack differentiates, step by step; accuracy is the defence's own verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

from lit_pursamere.report.lines import Line
from lit_pursamere.report.report import Report
from lit_pursamere.report.runs import AttackInfo, Run, flat
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.verdicts import CLEAN
from lit_pursamere.store.records import Row

__all__ = ["Survival", "Sweep", "survivals", "sweeps"]


@dataclass(frozen=True)
class Sweep:
    """Accuracy of one system under attacks that differ in one number only.

    Args:
        system: Name of the system.
        attack: What the names of the attacks have in common.
        panel: What else must agree for two sweeps to share axes: the norm, or the whole budget.
        points: (value, accuracy) by value; the first is 0 and the clean accuracy, where that is known.
        run: Label of the first run that contributes.
    """

    system: str
    attack: str
    panel: str
    points: tuple[tuple[float, Accuracy], ...]
    run: str


def sweeps(report: Report, parameter: Literal["eps", "steps"]) -> list[Sweep]:
    """Find the attacks that differ in one number only, within a run or between runs.

    Step sizes may differ as well, because they usually follow from budget and steps.

    Args:
        report: One or several runs.
        parameter: The number that differs.

    Returns:
        A sweep for every system and kind of attack with at least two values.
    """
    groups: dict[tuple[str, ...], list[tuple[float, Line]]] = {}
    clean: dict[tuple[str, str], Accuracy] = {}
    for line in report.lines:
        identity = line.system, line.run.description(line.system)
        if line.attack == CLEAN:
            clean.setdefault(identity, line.headline)
        info = line.run.attacks.get(line.attack, AttackInfo())
        value = getattr(info, parameter)
        if value is not None:
            panel = (info.norm or "") if parameter == "eps" else info.budget
            groups.setdefault((*identity, panel, _without(info, parameter, "step_size")), []).append((value, line))
    found = []
    for (system, description, panel, _), members in groups.items():
        if len({value for value, _ in members}) < 2:
            continue
        start = [(0.0, clean[system, description])] if (system, description) in clean else []
        points = sorted(((value, line.headline) for value, line in members), key=lambda point: point[0])
        name = _common_name([line.attack for _, line in members]) or _class_of(members[0][1])
        found.append(Sweep(system, name, panel, (*start, *points), members[0][1].run.label))
    return found


def _without(info: AttackInfo, *names: str) -> str:
    """All other settings of an attack and of those in it, as text to compare."""
    kept = {name: value for name, value in flat(info.settings).items() if name.rpartition(".")[2] not in names}
    return json.dumps(kept, sort_keys=True)


def _common_name(names: Sequence[str]) -> str:
    """What the names of attacks have in common; empty if that is nothing but the number that differs."""
    if len(set(names)) == 1:
        return names[0]
    start = "".join(
        letters[0] for letters in takewhile(lambda column: len(set(column)) == 1, zip(*names, strict=False))
    )
    # The number that differs may share its first digits, and may be announced by its name.
    return re.sub(r"[\s\-_=.,(]*(eps|steps)?[\s\-_=.,(]*[\d./]*$", "", start)


def _class_of(line: Line) -> str:
    """What stands for attacks that are named by their numbers alone, "eps 0.1" and "eps 0.2"."""
    return str(line.run.attacks.get(line.attack, AttackInfo()).settings.get("class", "")) or line.attack


@dataclass(frozen=True)
class Survival:
    """Share of images that an attack has not fooled yet, step by step.

    Args:
        attack: Name of the attack.
        shares: Share after 0, 1, ... steps, in [0, 1]; by the verdict of the view.
        n: Images.
        verdict: Share that the defence itself gets right when the attack is over.
    """

    attack: str
    shares: tuple[float, ...]
    n: int
    verdict: float | None


def survivals(run: Run, system: str, lines: Sequence[Line] = ()) -> list[Survival]:
    """Survival of a system's images under every attack that noted its first successes.

    Args:
        run: The evaluation.
        system: Name of the system.
        lines: Lines of the run's report, for the defence's own verdicts.
    """
    verdicts = {line.attack: line.headline.value for line in lines if line.run is run and line.system == system}
    found = []
    for attack, info in run.attacks.items():
        first = _first_successes(run.rows, system, attack)
        if first:
            steps = max(info.steps or 0, *first)
            broken = [sum(0 <= step <= k for step in first) for k in range(steps + 1)]
            shares = tuple(1 - count / len(first) for count in broken)
            found.append(Survival(attack, shares, len(first), verdicts.get(attack)))
    return found


def _first_successes(rows: Sequence[Row], system: str, attack: str) -> list[int]:
    found = (row.get("first_success") for row in rows if (row["system"], row["attack"]) == (system, attack))
    return [int(step) for step in found if step is not None]
