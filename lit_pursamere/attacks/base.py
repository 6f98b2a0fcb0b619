"""What an attack is: a value that perturbs images within a threat model. The caller enforces, the callee tries.

    outcome = attack(defense.view(attack.view), x, y)

`outcome.last` is the final iterate, `outcome.any` the first iterate that fooled the view (the last one if none did).
Iterative attacks are `init` and `step` on per-image state; one loop, in `scheduler`, drives them all: over a batch from
which images leave, or over any number of images of which those that are done make room for others (`in_slots`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import count
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.scheduler import Landed, cycle, run_in_slots
from lit_pursamere.host import at_once, note, settle
from lit_pursamere.store.manifest import setting_of
from lit_pursamere.threat import VIEWS, ThreatModel, View

__all__ = ["Attack", "IterativeAttack", "Outcome", "Progress"]

Progress = Callable[[int, int], None]
PerImage = dict[str, Tensor]

BUDGET_SLACK = 1e-5  # relative, for the arithmetic of a projection; the rounding of the pixels themselves comes on top


class Outcome(NamedTuple):
    """Adversarial images (B, C, H, W): the last iterate, and the first that fooled the view if any did.

    `first_success` (B,) counts the steps after which the view was first fooled: 0 is the clean image, or the start of
    an attack that starts elsewhere; -1 if no iterate that the view was asked about fooled it, which the last one is
    not. None for attacks that cannot say.
    """

    last: Tensor
    any: Tensor
    first_success: Tensor | None = None


def _require_box(low: float, high: float) -> None:
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"images must lie in [0, 1]; they range from {low:g} to {high:g}")


@dataclass(frozen=True)
class Attack(ABC):
    """Base of all attacks.

    Args:
        threat: What the attacker may change. None: what the evaluation says, see `within`.
        view: Which view of the defence the attack is meant for: `gray`, `bpda`, `first_order`, `adjoint`,
            `surrogate` or `exact`.
    """

    threat: ThreatModel | None = None
    view: View = "bpda"

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}; got {self.view!r}")

    @property
    def settings(self) -> dict[str, object]:
        """Its class and every field by name as JSON values; attacks, purifiers and networks in it as dictionaries.

        Weight files are left out: a digest of what they held says more than their place.
        """
        told = {field.name: getattr(self, field.name) for field in fields(self) if field.compare}
        modules = {name: value for name, value in vars(self).items() if isinstance(value, nn.Module)}
        return {"class": type(self).__name__, **{name: setting_of(value) for name, value in (told | modules).items()}}

    @final
    def within(self, threat: ThreatModel) -> Attack:
        """The same attack within a threat model, and so the attacks in it; what names its own keeps that."""
        given = {field.name: _within(getattr(self, field.name), threat) for field in fields(self) if field.init}
        if "threat" in given:
            given["threat"] = self.threat or threat
        changed = {name: value for name, value in given.items() if value is not getattr(self, name)}
        return replace(self, **changed) if changed else self

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
            ValueError: If x leaves [0, 1] or is not finite, or there is no threat model.
            RuntimeError: If the attack leaves its budget or returns NaN.
        """
        self._require_threat()
        note(_require_box, *torch.aminmax(x))
        with torch.enable_grad():
            outcome = self.perturb(view, x, y, progress or (lambda done, total: None))
        return self._verified(outcome, x)

    def _require_threat(self) -> None:
        if self.threat is None:
            raise ValueError(
                f"{type(self).__name__} has no threat model: give it one, such as ThreatModel('linf', 8 / 255)"
            )

    @final
    def _verified(self, outcome: Outcome, x: Tensor) -> Outcome:
        """The outcome, detached and projected on the budget around x; raises a RuntimeError if it is not within."""
        last, any_ = (self.threat.project(candidate.detach(), x) for candidate in (outcome.last, outcome.any))
        told = [(*torch.aminmax(images), self.threat.distance(images, x).max()) for images in (last, any_)]
        note(self._refuse_excess, self._reach(x), *told[0], *told[1])
        return outcome._replace(last=last, any=any_)

    def _refuse_excess(self, reach: float, *told: float) -> None:
        """`told`: smallest and largest pixel and largest distance of the last iterates, and again of the others."""
        for low, high, distance in (told[:3], told[3:]):
            if not (low >= 0 and high <= 1 and distance <= reach):
                raise RuntimeError(f"{self} left its budget: distance {distance:g} > eps {self.threat.eps:g}, or NaN")

    def _reach(self, x: Tensor) -> Tensor:
        """Largest distance from images like x that rounding may make of eps, (1,)."""
        rounding = self.threat.distance(torch.full_like(x[:1], torch.finfo(x.dtype).eps), torch.zeros_like(x[:1]))
        return self.threat.eps * (1 + BUDGET_SLACK) + rounding

    @abstractmethod
    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        """Best effort; gradients are enabled, and the result need not respect the budget."""


def _within(value: object, threat: ThreatModel) -> object:
    if isinstance(value, Attack):
        return value.within(threat)
    if isinstance(value, list | tuple) and any(isinstance(item, Attack) for item in value):
        found = [_within(item, threat) for item in value]
        return value if all(a is b for a, b in zip(found, value, strict=True)) else found
    return value


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
        """State before the first step; all tensors have the batch as first dimension. Must hold `x_adv`.

        A tensor on the CPU stays there: whatever a step must know in Python, so that no GPU has to be asked.
        """

    @abstractmethod
    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: PerImage) -> tuple[PerImage, Tensor]:
        """One step. Returns the new state and whether the view misclassified each image *before* the step, (B,)."""

    @final
    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        last, any_ = torch.empty_like(x), torch.empty_like(x)
        first_success, step = torch.empty(len(x), dtype=torch.long, device=x.device), count(1)

        def deliver(landed: Landed) -> None:
            last[landed.position], any_[landed.position] = landed.last, landed.any
            first_success[landed.position] = landed.first_success

        # One slot per image: nobody waits, and the batch shrinks as images leave.
        run_in_slots(self, view, x, y, len(x), deliver, lambda done, total: progress(next(step), self.steps), pad=False)
        return Outcome(last, any_, first_success)

    @final
    def in_slots(
        self,
        view: nn.Module,
        x: Tensor,
        y: Tensor,
        slots: int,
        finished: Callable[[Tensor, Outcome], None],
        progress: Progress | None = None,
        keys: Tensor | None = None,
    ) -> None:
        """Attack any number of images in batches of exactly `slots`: an image that is done makes room for the next.

        At a given number of slots an image's result is the same bit for bit, whatever the other images are and in
        whatever order they come, wherever a kernel does not care in which row of a batch an image stands. For
        stochastic views that needs `keys`.

        Args:
            view: Differentiable map from images to logits (B, K).
            x: Clean images (N, C, H, W) in [0, 1].
            y: True classes (N,).
            slots: Images per batch.
            finished: Called with the positions (k,) of images that are done and their verified outcome, as soon as
                `slots` of them are there, and with the rest in the end.
            progress: Called with (image steps done, image steps in all); steps that are saved count as done.
            keys: Key of each image (N,), from which fresh noise at each of its steps is made, see
                `diffusion.image_noise`. None: fresh noise comes from torch's global generator.

        Raises:
            ValueError: If x leaves [0, 1] or is not finite, or there are no slots.
            RuntimeError: If the attack leaves its budget or returns NaN.
        """
        self._require_threat()
        if slots < 1:
            raise ValueError(f"an attack needs slots >= 1; got {slots}")
        note(_require_box, *torch.aminmax(x))

        def deliver(landed: Landed) -> None:
            rows = cycle(len(landed.position), slots, x.device)  # projections, too, see as many images every time
            outcome = Outcome(landed.last[rows], landed.any[rows], landed.first_success[rows])
            verified = self._verified(outcome, x[landed.position[rows]])
            settle()  # what is handed over has passed every check
            with at_once():
                finished(landed.position, Outcome(*(value[: len(landed.position)] for value in verified)))

        with torch.enable_grad():
            run_in_slots(self, view, x, y, slots, deliver, progress or (lambda done, total: None), keys)
