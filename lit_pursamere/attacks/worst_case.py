"""The worst case over several attacks, and over several restarts of one: attacks made of attacks.

    for each attack:  run it on the images that no attack before has broken

An image is broken if the view misclassifies the attack's `any`, for stochastic views in most of several draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.base import Attack, Outcome, Progress
from lit_pursamere.attacks.gradients import adversarial_loss
from lit_pursamere.threat import ThreatModel, View

__all__ = ["Restarts", "WorstCase"]


@dataclass(frozen=True)
class WorstCase(Attack):
    """Run attacks in order, each on the images that the ones before did not break.

    An image's outcome is that of the attack that broke it, otherwise that of the last attack. All attacks see the
    view that the first one asks for; the view is asked again after each attack, about its `any`.

    Args:
        attacks: What to run, cheap ones first; all within the same threat model.
        evaluations: Draws of the view that decide whether an image is broken, by more than half of them.

    Raises:
        ValueError: If there are no attacks or draws, or two attacks have different threat models.
    """

    threat: ThreatModel = field(init=False)
    view: View = field(init=False)
    attacks: list[Attack]
    evaluations: int = 1

    def __post_init__(self) -> None:
        if self.evaluations < 1:
            raise ValueError(f"WorstCase needs evaluations >= 1; got {self.evaluations}")
        if not self.attacks:
            raise ValueError(f"WorstCase needs at least one attack; got {self.attacks!r}")
        first = self.attacks[0]
        for attack in self.attacks:
            if attack.threat != first.threat:
                raise ValueError(
                    f"the attacks of a WorstCase share one threat model; got {type(first).__name__} with "
                    f"{first.threat!r} and {type(attack).__name__} with {attack.threat!r}"
                )
        for name, value in {"attacks": tuple(self.attacks), "threat": first.threat, "view": first.view}.items():
            object.__setattr__(self, name, value)
        super().__post_init__()

    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        last, any_ = x.clone(), x.clone()
        for left, outcome, _ in in_turn(self.attacks, view, x, y, progress, self.evaluations):
            last[left], any_[left] = outcome.last, outcome.any
        return Outcome(last, any_)


@dataclass(frozen=True)
class Restarts(Attack):
    """Run an attack several times with other seeds; survivors only go on to the next run.

    A broken image keeps the outcome that broke it; any other keeps the one with the highest cross-entropy at its last
    iterate. Without a random start, runs differ on a stochastic view only.

    Args:
        attack: What to run; its setting `seed` counts up by one from run to run.
        count: Number of runs.

    Raises:
        ValueError: If there are no runs, or the attack has no seed.
    """

    threat: ThreatModel = field(init=False)
    view: View = field(init=False)
    attack: Attack
    count: int = 5

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"Restarts needs count >= 1; got {self.count}")
        if "seed" not in {setting.name for setting in fields(self.attack) if setting.init}:
            raise ValueError(f"Restarts needs an attack with a seed; got {type(self.attack).__name__}")
        object.__setattr__(self, "threat", self.attack.threat)
        object.__setattr__(self, "view", self.attack.view)
        super().__post_init__()

    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        attack: Any = self.attack  # which has a seed
        runs = [replace(attack, seed=attack.seed + i) for i in range(self.count)]
        last, any_, highest = x.clone(), x.clone(), torch.full_like(x.flatten(1)[:, 0], -torch.inf)
        for left, outcome, broken in in_turn(runs, view, x, y, progress):
            with torch.no_grad():
                loss = adversarial_loss(view(outcome.last), y[left]).to(highest)
            better = broken | (loss > highest[left])
            kept = left[better]
            last[kept], any_[kept], highest[kept] = outcome.last[better], outcome.any[better], loss[better]
        return Outcome(last, any_)


def in_turn(
    attacks: list[Attack], view: nn.Module, x: Tensor, y: Tensor, progress: Progress, evaluations: int = 1
) -> Iterator[tuple[Tensor, Outcome, Tensor]]:
    """Run attacks on the images that are left; yields their positions, their outcome, and whether they are broken."""
    left = torch.arange(len(x), device=x.device)
    for i, attack in enumerate(attacks):
        if not len(left):
            return
        outcome = attack(view, x[left], y[left], stage(progress, i, len(attacks)))
        with torch.no_grad():
            wrong = sum((view(outcome.any).argmax(1) != y[left]).long() for _ in range(evaluations))
            broken = wrong > evaluations / 2
        yield left, outcome, broken
        left = left[~broken]


def stage(progress: Progress, i: int, count: int) -> Callable[[int, int], None]:
    """Progress of the i-th of `count` attacks, as if all had as many steps as this one."""
    return lambda done, total: progress(i * total + done, count * total)
