"""Attacks by steps on per-image state, and their loop: a fixed number of slots is kept full, so cost follows the work.

    repeat:  waiting images take the free slots and become active
             step all active images;  those that are fooled (if that ends their attack) or out of steps are done
             images that are done are yielded in groups of as many as there are slots

Which images are active, and how far, the host knows by counting. It asks the device once a step where an image's
success ends its attack, and otherwise never; notes (`host`) are read after the first step, where most mistakes show,
and before a group is handed over.

What an image comes to depends on nothing but the image. To keep that true bit for bit, free slots that nobody waits for
are filled with copies of active images: kernels may round differently for another number of images, but every call gets
the same number.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress, count
from typing import NamedTuple, final

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.base import Attack, Outcome, Progress, silent
from lit_pursamere.attacks.batching import cycle
from lit_pursamere.diffusion.image_noise import follow, stepped
from lit_pursamere.host import deferred, onto, settle
from lit_pursamere.threat import over_images

__all__ = ["IterativeAttack", "PerImage"]

PerImage = dict[str, Tensor]
Group = tuple[Tensor, Outcome]  # positions (k,) of images that are done, and their outcome


@dataclass(frozen=True)
class IterativeAttack(Attack):
    """Base of attacks by steps on per-image state.

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
    @deferred()
    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        last, any_ = torch.empty_like(x), torch.empty_like(x)
        first_success, number = torch.empty(len(x), dtype=torch.long, device=x.device), count(1)

        def of_the_batch(done: int, total: int) -> None:
            progress(next(number), self.steps)

        # One slot per image: nobody waits, and the batch shrinks as images leave.
        for position, done in _groups(self, view, x, y, len(x), of_the_batch, pad=False):
            last[position], any_[position], first_success[position] = done  # type: ignore[assignment]
        return Outcome(last, any_, first_success)

    @final
    def iterates(
        self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress = silent, keys: Tensor | None = None
    ) -> Tensor:
        """The way of the attack: where every image starts, and where each step leads; to look changes no step.

        Arguments and errors are those of `in_slots`. An image that success ends stays where it is.

        Returns:
            (steps + 1, B, C, H, W). Without such images the last ones are those of `perturb`, bit for bit.
        """
        self._check(x, y)
        with deferred(), self._at_work(view, y):
            active = _start(self, x, y, 0, len(x), None)
            path = [active.state["x_adv"]]
            for done in range(1, self.steps + 1):
                with follow(_keys(keys, active, None)):
                    active, _ = _step(self, view, x, y, active, None)
                path.append(active.state["x_adv"])
                progress(done, self.steps)
        return torch.stack(path)

    @final
    def in_slots(
        self, view: nn.Module, x: Tensor, y: Tensor, slots: int, progress: Progress = silent, keys: Tensor | None = None
    ) -> Iterator[Group]:
        """Attack any number of images in batches of exactly `slots`: an image that is done makes room for the next.

        At a given number of slots an image's result is the same bit for bit, whatever the other images are and in
        whatever order they come, wherever a kernel does not care in which row of a batch an image stands. For
        stochastic views that needs `keys`.

        Args:
            view: Differentiable map from images to logits (B, K).
            x: Clean images (N, C, H, W) in [0, 1].
            y: True classes (N,), integers.
            slots: Images per batch.
            progress: Called with (image steps done, image steps in all); steps that are saved count as done.
            keys: Key of each image (N,), from which fresh noise at each of its steps is made, see
                `diffusion.image_noise`. None: fresh noise comes from torch's global generator.

        Yields:
            Positions (k,) of images that are done and their verified outcome: `slots` of them as soon as there are so
            many, and the rest in the end. The attack goes on when the next are asked for.

        Raises:
            ValueError: As a call of the attack does, or if there are no slots.
            RuntimeError: If the attack leaves its budget or returns NaN.
        """
        if slots < 1:
            raise ValueError(f"an attack needs slots >= 1; got {slots}")
        self._check(x, y)
        groups = _groups(self, view, x, y, slots, progress, keys)
        while True:
            with deferred(), self._at_work(view, y):  # not across the yield: modes and notes are the consumer's there
                group = next(groups, None)
                if group is None:
                    return
                position, done = group
                rows = cycle(len(position), slots, x.device)  # projections, too, see as many images every time
                done = self._verified(_rows(done, rows), x[position[rows]])
            yield position, _rows(done, slice(len(position)))


class Active(NamedTuple):
    """Images under attack, k of them; lists have k entries, and all tensors begin with k."""

    position: list[int]  # which of the images
    taken: list[int]  # steps so far
    success: Tensor  # steps before the view was first fooled, -1 as long as it was not
    first: Tensor  # the iterate that fooled it
    state: PerImage  # the attack's own

    def take(self, rows: Iterable[int]) -> Active:
        rows = list(rows)
        position, taken = ([numbers[row] for row in rows] for numbers in (self.position, self.taken))
        state = {name: value[_whole(rows, value.device)] for name, value in self.state.items()}
        own = _whole(rows, self.first.device)
        return Active(position, taken, self.success[own], self.first[own], state)

    def join(self, other: Active) -> Active:
        state = {name: torch.cat([value, other.state[name]]) for name, value in self.state.items()}
        success, first = torch.cat([self.success, other.success]), torch.cat([self.first, other.first])
        return Active(self.position + other.position, self.taken + other.taken, success, first, state)

    def outcome(self) -> Group:
        last = self.state["x_adv"]
        any_ = torch.where(over_images(self.success >= 0, last), self.first, last)
        return _whole(self.position, last.device), Outcome(last, any_, self.success)


def _rows(outcome: Outcome, rows: Tensor | slice) -> Outcome:
    return Outcome(*(value[rows] for value in outcome if value is not None))


def _whole(numbers: list[int], device: torch.device) -> Tensor:
    """Whole numbers as a tensor on a device."""
    return onto(torch.tensor(numbers, dtype=torch.long), device)


def _groups(
    attack: IterativeAttack,
    view: nn.Module,
    x: Tensor,
    y: Tensor,
    slots: int,
    progress: Progress,
    keys: Tensor | None = None,
    pad: bool = True,
) -> Iterator[Group]:
    """Attack images (N, C, H, W), at most `slots` of them at once; yields them, so many at a time, as they are done.

    Whoever asks for the next group does so with gradients enabled and notes deferred. Arguments are those of
    `IterativeAttack.in_slots`; `pad` says whether every call of `init` and `step` gets exactly `slots` images, or else
    the batch shrinks in the end.
    """
    total, started, size = len(x), min(slots, len(x)), slots if pad else None
    keys = None if keys is None else keys.cpu()
    active, new_here = _start(attack, x, y, 0, started, size), True
    done = active.take([])
    while active.position:
        with follow(_keys(keys, active, size)):
            active, over = _step(attack, view, x, y, active, size)
        if new_here:
            settle()
            new_here = False
        if any(over):
            rows = range(len(over))
            done = done.join(active.take(compress(rows, over)))
            active = active.take(row for row in rows if not over[row])
        while len(done.position) >= slots:
            yield done.take(range(slots)).outcome()
            done = done.take(range(slots, len(done.position)))
        free = min(slots - len(active.position), total - started)
        if free:
            active = active.join(_start(attack, x, y, started, started + free, size))
            started += free
        left = (total - started + len(active.position)) * attack.steps - sum(active.taken)
        progress(total * attack.steps - left, total * attack.steps)
    if done.position:
        yield done.outcome()


def _start(attack: IterativeAttack, x: Tensor, y: Tensor, first: int, end: int, size: int | None) -> Active:
    """Images first..end-1 before their first step."""
    number = end - first
    rows = first + cycle(number, size, x.device)
    state = {name: value.detach()[:number].clone() for name, value in attack.init(x[rows], y[rows]).items()}
    never = torch.full((number,), -1, device=x.device)
    return Active(list(range(first, end)), [0] * number, never, state["x_adv"].clone(), state)


def _keys(keys: Tensor | None, active: Active, size: int | None) -> Tensor | None:
    """Keys of the active images and of their copies, for the step that each of them is about to take."""
    if keys is None:
        return None
    rows = cycle(len(active.position), size, keys.device)
    own, taken = keys[_whole(active.position, keys.device)], _whole(active.taken, keys.device)
    return stepped(own[rows], taken[rows])


def _step(
    attack: IterativeAttack, view: nn.Module, x: Tensor, y: Tensor, active: Active, size: int | None
) -> tuple[Active, list[bool]]:
    """One step of all active images; returns them and whether the attack of each is over."""
    number, before = len(active.position), active.state["x_adv"]
    at = _whole(active.position, x.device)[cycle(number, size, x.device)]
    state = {name: value[cycle(number, size, value.device)] for name, value in active.state.items()}
    new, wrong = attack.step(view, x[at], y[at], state)
    wrong = wrong[:number]
    hit = wrong & (active.success < 0)
    first = torch.where(over_images(hit, x), before, active.first)
    success = torch.where(hit, _whole(active.taken, x.device), active.success)
    state = {name: value.detach()[:number] for name, value in new.items()}
    stays = wrong.tolist() if attack.stop_on_success else [False] * number
    if any(stays):
        state = {name: _held(value, active.state[name], stays) for name, value in state.items()}
    taken = [steps + (not stay) for steps, stay in zip(active.taken, stays, strict=True)]
    over = [stay or steps >= attack.steps for steps, stay in zip(taken, stays, strict=True)]
    return Active(active.position, taken, success, first, state), over


def _held(new: Tensor, old: Tensor, stays: list[bool]) -> Tensor:
    """New values (k, ...), but the old ones of images that stay where they are."""
    return torch.where(over_images(onto(torch.tensor(stays), new.device), new), old, new)
