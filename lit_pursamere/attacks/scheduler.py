"""The loop of all iterative attacks: a fixed number of slots is kept full, so that cost follows the work left.

    repeat:  waiting images board the free slots
             step all images in flight;  images that are fooled (if that ends their attack) or out of steps land
             landed images are delivered in groups of as many as there are slots

Who is in flight, and how far, the host knows by counting. It asks the device once a step where an image's success ends
its attack, and otherwise never; notes (`host`) are read after the first step, where most mistakes show, and
at the end.

What an image comes to depends on nothing but the image. To keep that true bit for bit, free slots that nobody waits for
are filled with copies of images in flight: kernels may round differently for another number of images, but every call
gets the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import compress
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion.image_noise import follow, stepped
from lit_pursamere.host import deferred, onto, settle
from lit_pursamere.threat import over_images

if TYPE_CHECKING:
    from lit_pursamere.attacks.base import IterativeAttack

__all__ = ["Deliver", "Landed", "cycle", "run_in_slots"]


class Landed(NamedTuple):
    """Images whose attack is over, k of them.

    `position` (k,) says which of the images they are; `last` and `any` (k, C, H, W) and `first_success` (k,) are those
    of an `Outcome`.
    """

    position: Tensor
    last: Tensor
    any: Tensor
    first_success: Tensor


Deliver = Callable[[Landed], None]


class Flight(NamedTuple):
    """Images under attack, k of them; lists have k entries, and all tensors begin with k."""

    position: list[int]  # which of the images
    taken: list[int]  # steps so far
    success: Tensor  # steps before the view was first fooled, -1 as long as it was not
    first: Tensor  # the iterate that fooled it
    state: dict[str, Tensor]  # the attack's own

    def take(self, rows: Iterable[int]) -> Flight:
        rows = list(rows)
        position, taken = ([numbers[row] for row in rows] for numbers in (self.position, self.taken))
        state = {name: value[_whole(rows, value.device)] for name, value in self.state.items()}
        own = _whole(rows, self.first.device)
        return Flight(position, taken, self.success[own], self.first[own], state)

    def join(self, other: Flight) -> Flight:
        state = {name: torch.cat([value, other.state[name]]) for name, value in self.state.items()}
        success, first = torch.cat([self.success, other.success]), torch.cat([self.first, other.first])
        return Flight(self.position + other.position, self.taken + other.taken, success, first, state)


def _whole(numbers: list[int], device: torch.device) -> Tensor:
    """Whole numbers as a tensor on a device."""
    return onto(torch.tensor(numbers, dtype=torch.long), device)


def cycle(count: int, size: int | None, device: torch.device) -> Tensor:
    """Row numbers 0..count-1, and then again from 0 until there are `size` of them (None: once is enough)."""
    return torch.arange(size or count, device=device).remainder(count)


@deferred()
def run_in_slots(
    attack: IterativeAttack,
    view: nn.Module,
    x: Tensor,
    y: Tensor,
    slots: int,
    deliver: Deliver,
    tick: Callable[[int, int], None],
    keys: Tensor | None = None,
    pad: bool = True,
) -> None:
    """Attack images (N, C, H, W) with at most `slots` of them in flight.

    Args:
        attack: Gives `init`, `step`, `steps` and `stop_on_success`.
        view: Differentiable map from images to logits (B, K).
        x: Clean images (N, C, H, W).
        y: True classes (N,).
        slots: Images in flight.
        deliver: Gets the images that landed, `slots` of them at a time and the rest at the end.
        tick: Called after every step with (image steps done or saved, image steps in all).
        keys: Key of each image (N,), which fresh noise follows from step to step. None: it follows nothing.
        pad: Whether every call of `init` and `step` gets exactly `slots` images; else the batch shrinks in the end.
    """
    total, boarded, size = len(x), min(slots, len(x)), slots if pad else None
    keys = None if keys is None else keys.cpu()
    flight, new_here = _board(attack, x, y, 0, boarded, size), True
    landed = flight.take([])
    while flight.position:
        with follow(_keys(keys, flight, size)):
            flight, over = _step(attack, view, x, y, flight, size)
        if new_here:
            settle()
            new_here = False
        if any(over):
            rows = range(len(over))
            landed = landed.join(flight.take(compress(rows, over)))
            flight = flight.take(row for row in rows if not over[row])
        while len(landed.position) >= slots:
            deliver(_outcome(landed.take(range(slots))))
            landed = landed.take(range(slots, len(landed.position)))
        free = min(slots - len(flight.position), total - boarded)
        if free:
            flight = flight.join(_board(attack, x, y, boarded, boarded + free, size))
            boarded += free
        left = (total - boarded + len(flight.position)) * attack.steps - sum(flight.taken)
        tick(total * attack.steps - left, total * attack.steps)
    if landed.position:
        deliver(_outcome(landed))


def _board(attack: IterativeAttack, x: Tensor, y: Tensor, first: int, end: int, size: int | None) -> Flight:
    """Images first..end-1 before their first step."""
    count = end - first
    rows = first + cycle(count, size, x.device)
    state = {name: value.detach()[:count].clone() for name, value in attack.init(x[rows], y[rows]).items()}
    never = torch.full((count,), -1, device=x.device)
    return Flight(list(range(first, end)), [0] * count, never, state["x_adv"].clone(), state)


def _keys(keys: Tensor | None, flight: Flight, size: int | None) -> Tensor | None:
    """Keys of the images in flight and of their copies, for the step that each of them is about to take."""
    if keys is None:
        return None
    rows = cycle(len(flight.position), size, keys.device)
    own, taken = keys[_whole(flight.position, keys.device)], _whole(flight.taken, keys.device)
    return stepped(own[rows], taken[rows])


def _step(
    attack: IterativeAttack, view: nn.Module, x: Tensor, y: Tensor, flight: Flight, size: int | None
) -> tuple[Flight, list[bool]]:
    """One step of all images in flight; returns them and whether the attack of each is over."""
    count, before = len(flight.position), flight.state["x_adv"]
    at = _whole(flight.position, x.device)[cycle(count, size, x.device)]
    state = {name: value[cycle(count, size, value.device)] for name, value in flight.state.items()}
    new, wrong = attack.step(view, x[at], y[at], state)
    wrong = wrong[:count]
    hit = wrong & (flight.success < 0)
    first = torch.where(over_images(hit, x), before, flight.first)
    success = torch.where(hit, _whole(flight.taken, x.device), flight.success)
    state = {name: value.detach()[:count] for name, value in new.items()}
    stays = wrong.tolist() if attack.stop_on_success else [False] * count
    if any(stays):
        state = {name: _held(value, flight.state[name], stays) for name, value in state.items()}
    taken = [number + (not stay) for number, stay in zip(flight.taken, stays, strict=True)]
    over = [stay or number >= attack.steps for number, stay in zip(taken, stays, strict=True)]
    return Flight(flight.position, taken, success, first, state), over


def _held(new: Tensor, old: Tensor, stays: list[bool]) -> Tensor:
    """New values (k, ...), but the old ones of images that stay where they are."""
    return torch.where(over_images(onto(torch.tensor(stays), new.device), new), old, new)


def _outcome(landed: Flight) -> Landed:
    last = landed.state["x_adv"]
    any_ = torch.where(over_images(landed.success >= 0, last), landed.first, last)
    return Landed(_whole(landed.position, last.device), last, any_, landed.success)
