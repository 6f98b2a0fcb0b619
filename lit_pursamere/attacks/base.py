"""What an attack is: a value that perturbs images within a threat model. The caller enforces, the callee tries.

    outcome = attack(defense.view(attack.gradient), x, y)

`outcome.last` is the final iterate, `outcome.any` the first iterate that fooled the view (the last one if none did).
Iterative attacks are `init` and `step` on per-image state; the loop below drives them all and lets images leave.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from lit_pursamere.threat import GRADIENTS, Gradient, ThreatModel

__all__ = ["Attack", "IterativeAttack", "Outcome", "Progress"]

Progress = Callable[[int, int], None]
PerImage = dict[str, Tensor]

BUDGET_SLACK = 1e-5  # relative, for the arithmetic of a projection; the rounding of the pixels themselves comes on top


class Outcome(NamedTuple):
    """Adversarial images (B, C, H, W): the last iterate, and the first that fooled the view if any did."""

    last: Tensor
    any: Tensor


@dataclass(frozen=True)
class Attack(ABC):
    """Base of all attacks.

    Args:
        threat: What the attacker may change.
        gradient: Which view of the defence the attack is meant for: `gray`, `bpda`, `first_order` or `exact`.
    """

    threat: ThreatModel
    gradient: Gradient = "bpda"

    def __post_init__(self) -> None:
        if self.gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {self.gradient!r}")

    @final
    def __call__(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress | None = None) -> Outcome:
        """Attack a batch and make sure that the result is within the budget.

        Args:
            view: Differentiable map from images to logits (B, K).
            x: Clean images (B, C, H, W) in [0, 1].
            y: True classes (B,).
            progress: Called with (steps done, steps in all) as the attack proceeds.

        Returns:
            Adversarial images, detached and feasible.

        Raises:
            ValueError: If x leaves [0, 1] or is not finite.
            RuntimeError: If the attack leaves its budget or returns NaN.
        """
        if not (x.min() >= 0 and x.max() <= 1):  # also catches NaN
            raise ValueError(f"images must lie in [0, 1]; they range from {x.min():g} to {x.max():g}")
        with torch.enable_grad():
            outcome = self.perturb(view, x, y, progress or (lambda done, total: None))
        outcome = Outcome(*(self.threat.project(candidate.detach(), x) for candidate in outcome))
        for candidate in outcome:
            distance = self.threat.distance(candidate, x).max()
            if not (candidate.min() >= 0 and candidate.max() <= 1 and distance <= self._reach(x)):
                raise RuntimeError(f"{self} left its budget: distance {distance:g} > eps {self.threat.eps:g}, or NaN")
        return outcome

    def _reach(self, x: Tensor) -> Tensor:
        """Largest distance from images like x that rounding may make of eps, (1,)."""
        rounding = self.threat.distance(torch.full_like(x[:1], torch.finfo(x.dtype).eps), torch.zeros_like(x[:1]))
        return self.threat.eps * (1 + BUDGET_SLACK) + rounding

    @abstractmethod
    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        """Best effort; gradients are enabled, and the result need not respect the budget."""


@dataclass(frozen=True)
class IterativeAttack(Attack):
    """An attack by steps on per-image state.

    Args:
        steps: Number of steps.
        stop_on_success: Whether an image leaves the batch as soon as the view misclassifies it, which saves its
            remaining steps; its last iterate then is its first success.
    """

    steps: int = 20
    stop_on_success: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"{type(self).__name__} needs steps >= 1; got {self.steps}")

    @abstractmethod
    def init(self, x: Tensor, y: Tensor) -> PerImage:
        """State before the first step; all tensors have the batch as first dimension. Must hold `x_adv`."""

    @abstractmethod
    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: PerImage) -> tuple[PerImage, Tensor]:
        """One step. Returns the new state and whether the view misclassified each image *before* the step, (B,)."""

    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        state = self.init(x, y)
        first = state["x_adv"].clone()  # the first iterate that fooled the view, filled in as images are fooled
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for done in range(self.steps):
            active = torch.nonzero(~fooled if self.stop_on_success else torch.ones_like(fooled)).flatten()
            if not len(active):
                break
            before = state["x_adv"][active]
            new, wrong = self.step(view, x[active], y[active], {name: value[active] for name, value in state.items()})
            hit = wrong & ~fooled[active]
            first[active[hit]] = before[hit]
            fooled[active[hit]] = True
            moved = ~wrong if self.stop_on_success else torch.ones_like(wrong)
            for name, value in new.items():
                state[name][active[moved]] = value.detach()[moved]
            progress(done + 1, self.steps)
        last = state["x_adv"]
        keep = fooled.reshape(-1, *[1] * (x.ndim - 1))
        return Outcome(last, torch.where(keep, first, last))
