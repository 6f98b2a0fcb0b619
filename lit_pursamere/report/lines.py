"""Lines of a table: a system under an attack, clean, or in the worst case over attacks, and what papers report of it.

The headline is the success semantics of the run's protocol, see `verdicts`.
"""

from __future__ import annotations

from dataclasses import dataclass

from lit_pursamere.report.detection import Detection, detections
from lit_pursamere.report.published import Published, differences, published, same_classifier
from lit_pursamere.report.runs import AttackInfo, Run
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.verdicts import (
    CLEAN,
    SEMANTICS,
    accuracies,
    judged,
    mean_seconds,
    stand_ins,
    worst_cases,
)

__all__ = ["WORST", "Line", "lines_of"]

WORST = "worst case"


@dataclass(frozen=True)
class Line:
    """One line of a table.

    Args:
        run: The run it belongs to.
        system: Name of the system.
        attack: Name of the attack, `clean`, or a worst case over attacks.
        accuracies: Accuracy by every semantics that was judged.
        seconds: Mean seconds per image, attack and verdicts.
        paper: What a paper reports for this.
        detection: What the detector did; None: there was none.
    """

    run: Run
    system: str
    attack: str
    accuracies: dict[str, Accuracy]
    seconds: float | None = None
    paper: Published | None = None
    detection: Detection | None = None

    @property
    def semantics(self) -> str:
        """The semantics of the headline: the protocol's, or the nearest that was judged."""
        return self.nearest(self.run.success)

    def nearest(self, wanted: str) -> str:
        """One of SEMANTICS, or what stands in for it here."""
        return next((s for s in stand_ins(wanted) if s in self.accuracies), next(iter(self.accuracies)))

    @property
    def headline(self) -> Accuracy:
        """Accuracy by `semantics`."""
        return self.accuracies[self.semantics]

    @property
    def paper_value(self) -> float | None:
        """The published accuracy in %."""
        return None if self.paper is None else self.paper.clean if self.attack == CLEAN else self.paper.robust

    @property
    def paper_label(self) -> str:
        """Where the published accuracy stands."""
        return "" if self.paper is None else self.paper.label

    @property
    def doubt(self) -> str:
        """What speaks against the published accuracy; doubts are about robust accuracies."""
        return "" if self.paper is None or self.attack == CLEAN else self.paper.doubtful


def lines_of(run: Run) -> list[Line]:
    """The lines of a run, by system and attack: clean first, the worst cases last."""
    table, seconds, worst = accuracies(run.rows), mean_seconds(run.rows), _worst_tables(run)
    detected = detections(run.rows)
    lines = []
    for system in run.systems:
        for attack in (CLEAN, *run.attacks):
            found = {s: table[system, attack, s] for s in SEMANTICS if (system, attack, s) in table}
            if found:
                paper = _paper_for(run, system, attack)
                key = system, attack
                lines.append(Line(run, *key, found, seconds.get(key), paper, detected.get(key)))
        for name, tables in worst.items():
            found = {semantics: cells[system] for semantics, cells in tables.items() if system in cells}
            if found:
                lines.append(Line(run, system, name, found))
    return lines


def _worst_tables(run: Run) -> dict[str, dict[str, dict[str, Accuracy]]]:
    """Name of a worst case -> semantics -> system -> accuracy; one per budget if several budgets are attacked."""
    budgets: dict[str, list[str]] = {}
    for name, info in run.attacks.items():
        budgets.setdefault(info.budget, []).append(name)
    groups = {f"{WORST} {budget}": names for budget, names in budgets.items() if budget and len(names) > 1}
    groups = groups if len(budgets) > 1 else {}
    if run.attacks:
        groups[WORST] = list(run.attacks)
    return {name: {s: worst_cases(run.rows, attacks, s) for s in judged(run.rows)} for name, attacks in groups.items()}


def _paper_for(run: Run, system: str, attack: str) -> Published | None:
    """The first published cell of which all that its source states holds; for `clean` that of the first such attack.

    Of those, one of the classifier that the run is named after comes first.
    """
    for name in run.attacks if attack == CLEAN else [attack]:
        if run.attacks[name] == AttackInfo():  # an attack that no manifest describes could be anything
            continue
        for cell in sorted(published(system, name), key=lambda cell: not same_classifier(cell, run)):
            if (attack != CLEAN or cell.clean is not None) and not differences(cell, run, system, name):
                return cell
    return None
