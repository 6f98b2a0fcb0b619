"""The loop of all iterative attacks: a fixed number of slots is kept full, so that cost follows the work left.

    repeat:  waiting images board the free slots
             step all images in flight;  images that are fooled (if that ends their attack) or out of steps land
             landed images are delivered in groups of as many as there are slots

What an image comes to depends on nothing but the image. To keep that true bit for bit, free slots that nobody waits for
are filled with copies of images in flight: kernels may round differently for another number of images, but every call
gets the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion.image_noise import follow, stepped

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
    """Images under attack, k of them; all tensors begin with k."""

    position: Tensor  # which of the images
    taken: Tensor  # steps so far
    success: Tensor  # steps before the view was first fooled, -1 as long as it was not
    first: Tensor  # the iterate that fooled it
    state: dict[str, Tensor]  # the attack's own

    def take(self, rows: Tensor) -> Flight:
        *own, state = self
        return Flight(*(value[rows] for value in own), {name: value[rows] for name, value in state.items()})

    def join(self, other: Flight) -> Flight:
        *own, state = self
        *others, new = other
        joined = (torch.cat(pair) for pair in zip(own, others, strict=True))
        return Flight(*joined, {name: torch.cat([value, new[name]]) for name, value in state.items()})


def cycle(count: int, size: int | None, device: torch.device) -> Tensor:
    """Row numbers 0..count-1, and then again from 0 until there are `size` of them (None: once is enough)."""
    return torch.arange(size or count, device=device).remainder(count)


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
    total, boarded = len(x), min(slots, len(x))
    flight = _board(attack, x, y, 0, boarded, slots if pad else None)
    landed = flight.take(flight.position[:0])
    while len(flight.position):
        with follow(_keys(keys, flight, slots if pad else None)):
            flight, ended = _step(attack, view, x, y, flight, slots if pad else None)
        if ended.any():
            landed = landed.join(flight.take(ended))
            flight = flight.take(~ended)
        while len(landed.position) >= slots:
            deliver(_outcome(landed, slice(0, slots)))
            landed = landed.take(slice(slots, None))
        free = min(slots - len(flight.position), total - boarded)
        if free:
            flight = flight.join(_board(attack, x, y, boarded, boarded + free, slots if pad else None))
            boarded += free
        left = (total - boarded) * attack.steps + int((attack.steps - flight.taken).sum())
        tick(total * attack.steps - left, total * attack.steps)
    if len(landed.position):
        deliver(_outcome(landed, slice(None)))


def _board(attack: IterativeAttack, x: Tensor, y: Tensor, first: int, end: int, size: int | None) -> Flight:
    """Images first..end-1 before their first step."""
    position = torch.arange(first, end, device=x.device)
    rows = position[cycle(len(position), size, x.device)]
    state = {name: value.detach()[: len(position)].clone() for name, value in attack.init(x[rows], y[rows]).items()}
    none = torch.zeros_like(position)
    return Flight(position, none, none - 1, state["x_adv"].clone(), state)


def _keys(keys: Tensor | None, flight: Flight, size: int | None) -> Tensor | None:
    """Keys of the images in flight and of their copies, for the step that each of them is about to take."""
    if keys is None:
        return None
    rows = cycle(len(flight.position), size, flight.position.device)
    return stepped(keys[flight.position[rows].to(keys.device)], flight.taken[rows].to(keys.device))


def _step(
    attack: IterativeAttack, view: nn.Module, x: Tensor, y: Tensor, flight: Flight, size: int | None
) -> tuple[Flight, Tensor]:
    """One step of all images in flight; returns them and whether the attack of each is over, (k,)."""
    count = len(flight.position)
    rows = cycle(count, size, x.device)
    at = flight.position[rows]
    before = flight.state["x_adv"]
    new, wrong = attack.step(view, x[at], y[at], {name: value[rows] for name, value in flight.state.items()})
    wrong = wrong[:count]
    hit = wrong & (flight.success < 0)
    first = torch.where(hit.reshape(-1, *[1] * (x.ndim - 1)), before, flight.first)
    success = torch.where(hit, flight.taken, flight.success)
    moved = ~wrong if attack.stop_on_success else torch.ones_like(wrong)
    state = {}
    for name, value in new.items():
        old, value = flight.state[name], value.detach()[:count]
        state[name] = torch.where(moved.reshape(-1, *[1] * (value.ndim - 1)), value, old)
    taken = flight.taken + moved
    ended = ~moved | (taken >= attack.steps)
    return Flight(flight.position, taken, success, first, state), ended


def _outcome(landed: Flight, rows: slice) -> Landed:
    position, success, last = landed.position[rows], landed.success[rows], landed.state["x_adv"][rows]
    fooled = (success >= 0).reshape(-1, *[1] * (last.ndim - 1))
    return Landed(position, last, torch.where(fooled, landed.first[rows], last), success)
