"""Attacks in turn on the images that are left, decided by the mean over several draws of the view.

    hits = right answers of the view on x, per image, out of `evaluations` draws, if the view draws anything
    for each run, on the images with hits > 0:
        for each candidate of the run, while its image has hits > 0:
            keep it where its own hits, out of as many fresh draws, are fewer

AutoAttack as published decides by one draw, which a stochastic view answers wrongly now and then: an image counts as
broken as soon as any of many single draws errs, and one that errs in the first draw is not attacked at all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.base import Attack, Outcome, Progress
from lit_pursamere.attacks.library import Draws, LibraryView, fingerprint, frozen
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.threat import over_images

__all__ = ["Run", "SurvivorAttack", "at_least_one"]

ROUNDING = 1e-3  # how far beyond eps, relatively, a library's float32 arithmetic may end; projected before it is judged


class Run(NamedTuple):
    """One attempt: images (B, C, H, W) and classes (B,) to candidates of that shape, in at most about `calls` calls."""

    calls: int
    attempt: Callable[[Tensor, Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class SurvivorAttack(Attack):
    """Base of attacks that return the best candidate of several runs, and x itself where no run gained anything.

    `last` and `any` of the outcome are the same. Runs draw their random numbers per batch, so an image's result
    depends on its neighbours unless `one_by_one` is set; the same batch gives the same result, whatever the state of
    the global generators.

    Args:
        seed: Seed of all random numbers; unused where none are drawn.
        evaluations: Draws of the view per decision; where it is seen to draw nothing, it is asked once.
        decision: `mean` compares the means over `evaluations` draws; `original` lets single draws decide, as the
            published code does, for comparison.
        one_by_one: Whether to attack every image in a batch of its own, which is slow.
    """

    seed: int = 0
    evaluations: int = 20
    decision: Literal["mean", "original"] = "mean"
    one_by_one: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"{type(self).__name__} needs a seed in [0, 2^32); got {self.seed}")
        if self.evaluations < 1:
            raise ValueError(f"{type(self).__name__} needs evaluations >= 1; got {self.evaluations}")
        if self.decision not in ("mean", "original"):
            raise ValueError(f"decision must be 'mean' or 'original'; got {self.decision!r}")

    @abstractmethod
    def runs(self, view: LibraryView) -> list[Run]:
        """What to try in turn on a view; each run sees the images that are left."""

    def correctness(self, view: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        """Mean correctness of every image over `evaluations` draws that no decision has seen, (B,)."""
        draws = self._draws(view, x)
        return self._hits(view, x, y, 0, draws)[0] / draws.count

    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        if not self.budget.eps:
            progress(1, 1)
            return Outcome(x, x)
        size = 1 if self.one_by_one else len(x)
        kept, groups = [], list(zip(x.split(size), y.split(size), strict=True))
        for i, (images, labels) in enumerate(groups):

            def of_all(done: int, total: int, i: int = i) -> None:
                progress(i * total + done, len(groups) * total)

            with forked_randomness(self.seed), frozen(view):
                kept.append(self._attack(view, images, labels, of_all))
        best = torch.cat(kept)
        return Outcome(best, best)

    def _attack(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Tensor:
        stage = count(1)
        draws = self._draws(view, x)
        best, (hits, classes) = x.clone(), self._hits(view, x, y, next(stage), draws)
        meter = _Meter(progress)
        runs = self.runs(LibraryView(view, x.dtype, classes, meter.tick, draws))
        meter.total = sum(run.calls for run in runs)
        for run in runs:
            todo = torch.nonzero(hits > 0).flatten()
            if not len(todo):
                break
            meter.start(run.calls)
            for candidate in run.attempt(x[todo].float().contiguous(), y[todo]):
                asked = torch.nonzero(hits[todo] > 0).flatten()
                if not len(asked):
                    break
                rows = todo[asked]
                feasible = self._feasible(candidate[asked].to(x), x[rows])
                new, _ = self._hits(view, feasible, y[rows], next(stage), draws)
                better = new < hits[rows]
                best[rows[better]], hits[rows[better]] = feasible[better], new[better]
        progress(meter.total, meter.total)
        return best

    def _draws(self, view: nn.Module, x: Tensor) -> Draws:
        return Draws.of(view, x, self.evaluations if self.decision == "mean" else 1)

    @torch.no_grad()
    def _hits(self, view: nn.Module, x: Tensor, y: Tensor, stage: int, draws: Draws) -> tuple[Tensor, int]:
        """Right answers on every image, (B,), out of `draws.count`, for which one may stand; number of classes."""
        with forked_randomness(self.seed, fingerprint(x), stage):  # other images and other stages: other draws
            drawn = draws.answers(view, x)
        hits = torch.stack([logits.argmax(1) == y for logits in drawn]).sum(0)
        return hits * (draws.count // len(drawn)), drawn[0].shape[1]

    def _feasible(self, candidate: Tensor, x: Tensor) -> Tensor:
        """The candidate, with rounding projected away; x itself where it is out of reach or not a number."""
        near = self.budget.distance(candidate, x) <= self.budget.eps * (1 + ROUNDING)
        return torch.where(over_images(near, x), self.budget.project(candidate, x), x)


class _Meter:
    """Progress in evaluations of the view; a run that ends early, or calls more often than planned, stays in step."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.done, self.ceiling, self.total = progress, 0, 0, 0

    def start(self, calls: int) -> None:
        self.done, self.ceiling = self.ceiling, self.ceiling + calls

    def tick(self) -> None:
        if self.done < self.ceiling:
            self.done += 1
            self.progress(self.done, self.total)


def at_least_one(attack: SurvivorAttack, *names: str) -> None:
    """Raise a ValueError if one of these numbers of an attack is below 1; None passes."""
    for name in names:
        value = getattr(attack, name)
        if value is not None and value < 1:
            raise ValueError(f"{type(attack).__name__} needs {name} >= 1; got {value}")
