"""What purifying a data set, and attacking a defence, cost: images times queries times what a query takes.

clean verdict:  evaluations x (purification + classifier)
    attack:         queries for values and for gradients of its view, and verdicts on the last and the worst iterate
a gradient is:  the classifier's on `gray`; with a purification before it on `bpda`; with the derivative of the
                purification on `first_order` and `exact`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lit_pursamere.attacks import Attack, IterativeAttack
from lit_pursamere.defense import Defense
from lit_pursamere.estimate.calls import Queries, count_queries
from lit_pursamere.estimate.stages import Stage
from lit_pursamere.estimate.timing import Cost, classifier_cost, purification_cost, walk
from lit_pursamere.tasks import LitPurification, LitRobustness
from lit_pursamere.threat import View

__all__ = ["attack_once", "evaluation_stages", "purification_stages"]

UPPER = "upper bound: images that are fooled leave early"
LIBRARY = "queries if no image is ever fooled, so mostly an upper bound"
UNKNOWN = "its cost is not decided by its queries"


def purification_stages(
    task: LitPurification, x: Tensor, images: int, classes: int, limit: float
) -> tuple[list[Stage], float | None]:
    """Stages of a `predict`, and the flop counter's number for a purification divided by the formula's.

    Args:
        task: What is run.
        x: A batch (B, C, H, W).
        images: How many images there are.
        classes: Number of classes.
        limit: Seconds for which anything is clocked.
    """
    cost = purification_cost(task.purifier, x, classes, derivative=False, limit=limit)
    batch = cost.times(len(x))
    return [Stage("purification", images / len(x), len(x), batch.flop, batch.seconds)], cost.ratio


def evaluation_stages(
    task: LitRobustness, x: Tensor, y: Tensor, images: int, classes: int, limit: float
) -> tuple[list[Stage], float | None]:
    """Stages of a `test`, one per system and attack; arguments and returns as in `purification_stages`.

    `y` (B,) are the classes of x.
    """
    stages, ratio = [], None
    for system, defense in task.systems.items():
        costs = SystemCost(defense, x, classes, limit)
        verdict = costs.value("exact").times(task.evaluations)
        ratio = ratio or verdict.ratio
        for name, attack in {"clean": None, **task.attacks}.items():
            queries = Queries() if attack is None else count_queries(attack, x[:1].cpu(), y[:1].cpu(), classes)
            stages.append(stage(f"{system}, {name}", attack, queries, costs, verdict, images, len(x)))
    return stages, ratio


def ask_once(task: LitPurification | LitRobustness, x: Tensor, count: int) -> None:
    """What takes the most memory of a `predict` or `test`, on the first `count` of images x (B, C, H, W)."""
    if isinstance(task, LitPurification):
        walk(task.purifier, x[:count], False, 0.0, 1)
    else:
        attack_once(next(iter(task.systems.values())), task.attacks, x, count)


def attack_once(defense: Defense, attacks: Mapping[str, Attack], x: Tensor, count: int) -> None:
    """What takes the most memory of attacks on a defence, on the first `count` of images x (B, C, H, W)."""
    draws = max((draws_at_once(attack) for attack in attacks.values()), default=1)
    images = x[:count].repeat(draws, 1, 1, 1)
    derivative = any(attack.view not in ("gray", "bpda") for attack in attacks.values())
    walk(defense.purifier, images, derivative, 0.0, 1)
    with torch.enable_grad():
        logits = defense.classifier(images.requires_grad_())
        if logits.requires_grad:  # black-box attacks ask for no gradient
            logits.sum().backward()


def draws_at_once(attack: Attack) -> int:
    """Copies of an image that a step of an attack passes on at once."""
    draws: Any = getattr(attack, "eot_chunk", None) or getattr(attack, "eot", 1)
    return draws if hasattr(attack, "eot_chunk") else 1


class SystemCost:
    """What an image costs on the views of a defence; measured when first asked for."""

    def __init__(self, defense: Defense, x: Tensor, classes: int, limit: float) -> None:
        self.defense, self.x, self.classes, self.limit = defense, x, classes, limit
        self.known: dict[tuple[str, bool], Cost] = {}

    def value(self, view: View) -> Cost:
        """Logits of the view."""
        return self._purification("values" if view != "gray" else view) + self._classifier(False)

    def gradient(self, view: View) -> Cost:
        """Gradient of a loss on the view."""
        return self._purification("values" if view == "bpda" else view) + self._classifier(True)

    def _classifier(self, derivative: bool) -> Cost:
        key = "classifier", derivative
        if key not in self.known:
            self.known[key] = classifier_cost(self.defense.classifier, self.x, derivative, self.limit)
        return self.known[key]

    def _purification(self, view: View | Literal["values"]) -> Cost:
        """What comes before the classifier: nothing, a purification, or one with its derivative."""
        if view == "gray":
            return Cost()
        key = view, view != "values"
        if key not in self.known:
            system: Any = self.defense if view == "values" else self.defense.view(view)
            self.known[key] = purification_cost(system.purifier, self.x, self.classes, view != "values", self.limit)
        return self.known[key]


def stage(
    name: str, attack: Attack | None, queries: Queries | None, costs: SystemCost, verdict: Cost, images: int, slots: int
) -> Stage:
    """The stage of one attack, or of the clean verdict if there is none."""
    batches = -(-images // slots)  # slots are kept full
    if queries is None:
        return Stage(name, batches, slots, None, None, note=UNKNOWN)
    # Few batches have no image whose worst iterate is not its last, and is judged, too.
    image = verdict.times(2 if isinstance(attack, IterativeAttack) and attack.view != "gray" else 1)
    if attack is not None:
        image += costs.value(attack.view).times(queries.values) if queries.values else Cost()
        image += costs.gradient(attack.view).times(queries.gradients) if queries.gradients else Cost()
    note = "" if attack is None else LIBRARY
    if isinstance(attack, IterativeAttack):
        note = UPPER if attack.stop_on_success else ""
    batch = image.times(slots)
    return Stage(name, batches, slots, batch.flop, batch.seconds, note=note)
