"""Timing: what a purification and its derivative take, from their first steps.

    purifier(x) as it is, but every step is clocked;  enough seconds gone:  stop
    seconds of all = seconds of the steps seen / network calls in them * network calls of a purification

A derivative is taken step by step: forward, and at once back through it. That is what the way back through a whole
purification does, too, because it computes every step a second time.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_pursamere.estimate.calls import FlopCount, count_calls, forward_flop
from lit_pursamere.evaluation.calls import Calls, counting, networks_of
from lit_pursamere.evaluation.cost import now
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import STEP

__all__ = ["Cost", "classifier_cost", "purification_cost"]

STEPS = 3  # that are clocked of a purification, at least


@dataclass(frozen=True)
class Cost:
    """What one image takes. `ratio` is the flop counter's number divided by the formula's, where both are there."""

    seconds: float = 0.0
    flop: float = 0.0
    ratio: float | None = None

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.flop + other.flop, self.ratio or other.ratio)

    def times(self, count: float) -> Cost:
        """What so many images take."""
        return Cost(self.seconds * count, self.flop * count, self.ratio)


class Enough(Exception):
    """Ends a purification that has been clocked for long enough."""


@dataclass
class Clock:
    """Steps of a purification: when each began, and how many calls its networks had had by then."""

    device: torch.device
    calls: list[Calls]
    limit: float
    steps: int = STEPS  # that are taken at least
    marks: list[tuple[float, int]] = field(default_factory=list)
    complete: bool = False

    def mark(self) -> None:
        self.marks.append((now(self.device), sum(calls.forward for calls in self.calls)))

    def begin(self, step: nn.Module, inputs: tuple) -> tuple:
        """Hook before a step: mark its beginning, and where gradients are enabled let it start from leaves.

        Raises:
            Enough: If it need not be taken.
        """
        self.mark()
        if len(self.marks) > 1 + self.steps and self.marks[-1][0] - self.marks[0][0] > self.limit:
            raise Enough
        run, *state = inputs
        return run, *(tensor.detach().requires_grad_(torch.is_grad_enabled()) for tensor in state)

    def differentiate(self, step: nn.Module, inputs: tuple, result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hook after a step: differentiate it, and cut its result off."""
        made = [calls.forward for calls in self.calls]
        outputs = [tensor for tensor in result if tensor.requires_grad]
        torch.autograd.grad(outputs, inputs[1:], [torch.ones_like(tensor) for tensor in outputs], allow_unused=True)
        for calls, count in zip(self.calls, made, strict=True):
            calls.forward = count  # without those of the second computation, which belong to the derivative
        return tuple(tensor.detach().requires_grad_() for tensor in result)

    def per_call(self) -> float:
        """Seconds per network call; without the first step, which warms up, where the purification was cut short."""
        first, last = self.marks[0 if self.complete else 2], self.marks[-1]
        return (last[0] - first[0]) / max(last[1] - first[1], 1)


def walk(purifier: Purifier, x: Tensor, derivative: bool, limit: float, steps: int = STEPS) -> Clock:
    """Purify x, (B, C, H, W), or begin to; with `derivative`, differentiate every step after it was made."""
    with counting(networks_of(purifier)) as calls, torch.set_grad_enabled(derivative):
        clock = Clock(x.device, list(calls.values()), limit, steps)
        hooks = [STEP.register_forward_pre_hook(clock.begin)]
        if derivative:
            hooks.append(STEP.register_forward_hook(clock.differentiate))
        try:
            clock.mark()
            purifier(x.clone().requires_grad_(derivative))
            clock.mark()
            clock.complete = True
        except Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()
    return clock


def purification_cost(purifier: Purifier, x: Tensor, classes: int, derivative: bool, limit: float) -> Cost:
    """What the purification of an image takes, forward alone or with the exact derivative.

    Args:
        purifier: The purifier, on the device of x.
        x: As many images (B, C, H, W) in [0, 1] as a batch has.
        classes: Number of classes.
        derivative: Whether the purified image is differentiated.
        limit: Seconds after which a purification is not continued.

    The FLOP of the forward is calls times FLOP of a call, the input gradients that the purifier itself takes counting
    as much as a call each. That of the derivative is what torch counts in the first steps.
    """
    calls = count_calls(purifier, x[:1], classes)
    total = sum(asked.forward for asked in calls)
    if not total:  # the identity, or a purifier that asks no network
        return Cost()
    clock = walk(purifier, x, derivative, limit)
    if clock.complete:  # the first was for warming up
        clock = walk(purifier, x, derivative, limit)
    with FlopCount() as count:
        seen = walk(purifier, x[:1], derivative, 0.0)
    counted = count.total / max(seen.marks[-1][1], 1) * total
    formula = sum(
        flop * (asked.forward + asked.backward)
        for flop, asked in zip(forward_flop(purifier, x[:1]), calls, strict=True)
    )
    seconds = clock.per_call() * total
    return Cost(seconds, counted) if derivative else Cost(seconds, formula, counted / formula)


def classifier_cost(classifier: nn.Module, x: Tensor, derivative: bool, limit: float) -> Cost:
    """What a classifier takes for one of the images x (B, C, H, W): logits, or with `derivative` their gradient."""

    def once(images: Tensor) -> None:
        logits = classifier(images.detach().requires_grad_(derivative))
        if derivative:
            logits.sum().backward()

    with torch.set_grad_enabled(derivative):
        once(x)
        times = [now(x.device)]
        while len(times) < 3 or times[-1] - times[0] < min(limit, 0.5):
            once(x)
            times.append(now(x.device))
        with FlopCount() as count:
            once(x[:1])
    return Cost(statistics.median(b - a for a, b in pairwise(times)) / len(x), count.total)
