"""What an attack is: a value that perturbs images within a threat model. The caller enforces, the callee tries.

    outcome = attack(defense.view(attack.view), x, y)

`outcome.last` is the final iterate, `outcome.any` the first iterate that fooled the view (the last one if none did).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.gradients import check_labels
from lit_pursamere.host import note
from lit_pursamere.store.manifest import setting_of
from lit_pursamere.threat import VIEWS, ThreatModel, View

__all__ = ["Attack", "Outcome", "Progress", "silent"]

Progress = Callable[[int, int], None]

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


def silent(done: int, total: int) -> None:
    """The progress of whoever does not ask for it."""


@dataclass(frozen=True)
class Attack(ABC):
    """Base of all attacks; what every attack has is said here, and by its subclasses only where it means more.

    Args:
        threat: What the attacker may change. None: what the evaluation says, see `within`.
        view: What the attacker knows of the defence, and differentiates if he takes gradients: `gray`, `bpda`,
            `first_order`, `adjoint`, `surrogate` or `exact`, see `defense`. Attacks that need values only find the
            same ones on `bpda`, `first_order`, `adjoint` and `exact`.

    Raises:
        ValueError: If the view is unknown, a number is out of range or the name of a choice is none of them.
    """

    threat: ThreatModel | None = None
    view: View = "bpda"

    def __post_init__(self) -> None:
        if self.view not in VIEWS:
            raise ValueError(f"view must be one of {', '.join(VIEWS)}; got {self.view!r}")

    @property
    def budget(self) -> ThreatModel:
        """Its threat model.

        Raises:
            ValueError: If it has none.
        """
        if self.threat is None:
            raise ValueError(
                f"{type(self).__name__} has no threat model: give it one, such as ThreatModel('linf', 8 / 255)"
            )
        return self.threat

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
        given: dict[str, Any] = {
            field.name: _within(getattr(self, field.name), threat) for field in fields(self) if field.init
        }
        if "threat" in given:
            given["threat"] = self.threat or threat
        changed = {name: value for name, value in given.items() if value is not getattr(self, name)}
        return replace(self, **changed) if changed else self

    @final
    def __call__(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress = silent) -> Outcome:
        """Attack a batch and make sure that the result is within the budget.

        Args:
            view: Differentiable map from images to logits (B, K).
            x: Clean images (B, C, H, W) in [0, 1], float32 or float64; the network behind the view may run in another
                precision (`torch.autocast`).
            y: True classes (B,), integers.
            progress: Called with (steps done, steps in all) as the attack proceeds.

        Returns:
            Adversarial images, detached and feasible.

        Raises:
            ValueError: If there is no threat model, x leaves [0, 1], is not finite, or neither float32 nor float64, y
                is not one integer per image, or a label is no class of the logits.
            RuntimeError: If the attack leaves its budget or returns NaN.
        """
        self._check(x, y)
        with self._at_work(view, y):
            outcome = self.perturb(view, x, y, progress)
        return self._verified(outcome, x)

    @abstractmethod
    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        """Best effort on images and labels that are checked; gradients are enabled.

        The result need not respect the budget.
        """

    @final
    def _check(self, x: Tensor, y: Tensor) -> None:
        """Raise a ValueError unless images (B, C, H, W) are exact and in [0, 1] (noted, see `host`), y B integers."""
        _ = self.budget  # complains if there is none
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"images under attack must be float32 or float64, else rounding leaves the budget; got {x.dtype} (a "
                "network in half precision: torch.autocast)"
            )
        check_labels(y, len(x))
        note(_refuse_outside, *torch.aminmax(x))

    @final
    @contextmanager
    def _at_work(self, view: nn.Module, y: Tensor) -> Iterator[None]:
        """Within, gradients are enabled, and labels that are no class of the view's first logits are refused."""

        def at_first_logits(module: nn.Module, inputs: object, logits: Tensor) -> None:
            hook.remove()
            check_labels(y, len(y), logits.shape[-1])

        hook = view.register_forward_hook(at_first_logits)
        try:
            with torch.enable_grad():
                yield
        finally:
            hook.remove()

    @final
    def _verified(self, outcome: Outcome, x: Tensor) -> Outcome:
        """The outcome, detached and projected on the budget around x (B, C, H, W).

        Raises:
            RuntimeError: If it leaves the budget all the same, or is NaN (noted, see `host`).
        """
        last, any_ = (self.budget.project(candidate.detach(), x) for candidate in (outcome.last, outcome.any))
        told = [(*torch.aminmax(images), self.budget.distance(images, x).max()) for images in (last, any_)]
        note(self._refuse_excess, self._reach(x), *told[0], *told[1])
        return outcome._replace(last=last, any=any_)

    def _refuse_excess(self, reach: float, *told: float) -> None:
        """`told`: smallest and largest pixel and largest distance of the last iterates, and again of the others."""
        for low, high, distance in (told[:3], told[3:]):
            if not (low >= 0 and high <= 1 and distance <= reach):
                raise RuntimeError(f"{self} left its budget: distance {distance:g} > eps {self.budget.eps:g}, or NaN")

    @final
    def _reach(self, x: Tensor) -> Tensor:
        """Largest distance from images like x that rounding may make of eps, (1,)."""
        rounding = self.budget.distance(torch.full_like(x[:1], torch.finfo(x.dtype).eps), torch.zeros_like(x[:1]))
        return self.budget.eps * (1 + BUDGET_SLACK) + rounding


def _within(value: object, threat: ThreatModel) -> object:
    if isinstance(value, Attack):
        return value.within(threat)
    if isinstance(value, list | tuple) and any(isinstance(item, Attack) for item in value):
        found = [_within(item, threat) for item in value]
        return value if all(a is b for a, b in zip(found, value, strict=True)) else found
    return value


def _refuse_outside(low: float, high: float) -> None:
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"images must lie in [0, 1]; they range from {low:g} to {high:g}")
