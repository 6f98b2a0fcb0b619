"""Whether an attack can begin, and how many images of a batch fit into memory, from its first step on a few images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.defense import Defense
from lit_pursamere.estimate.evaluation import attack_once
from lit_pursamere.estimate.memory import free_bytes, most_of, need_of
from lit_pursamere.estimate.stages import quantity
from lit_pursamere.preflight.examined import Doubt, Examined, first_line

__all__ = ["fitting_batch_size", "memory"]

IMAGES = 4  # that are worked on at most


def memory(examined: Examined) -> list[Doubt]:
    """Doubts about the memory of a batch."""
    size = examined.batch_size
    try:
        fits, needed, free = look(examined.defense, examined.attacks, examined.x, size)
    except Exception as error:  # of somebody's own purifier, or classifier
        name = type(examined.defense.purifier).__name__
        return [Doubt(f"the first step of an attack on {name} fails: {first_line(error)}", stops=True)]
    if fits == size:
        return []
    what = f"a batch of {size:,} images needs about {quantity(needed, 'B')}, and {quantity(free, 'B')} are free"
    return [Doubt(f"{what}: set batch_size (`data.eval_batch_size`) to {fits:,}")]


def fitting_batch_size(defense: Defense, attacks: Mapping[str, Attack], x: Tensor, batch_size: int) -> int:
    """The batch size, halved until a batch fits into the memory that is free on the device of the images.

    Args:
        defense: What will be attacked, on that device.
        attacks: With what, by name.
        x: Images (N, C, H, W) in [0, 1]; up to four of them are worked on.
        batch_size: Images per forward pass, as many as wanted.
    """
    return look(defense, attacks, x, batch_size)[0]


def look(defense: Defense, attacks: Mapping[str, Attack], x: Tensor, size: int) -> tuple[int, float, int | None]:
    """How many images of a batch fit, halved until they do, the bytes that all of it needs, and those that are free."""
    free = free_bytes(x.device)
    if free is None:
        return size, 0.0, free
    few = x[:IMAGES].repeat(IMAGES, 1, 1, 1)[:IMAGES]
    work = partial(attack_once, defense, attacks, few)
    if (most := size * most_of(work, 1)) <= free:  # a batch needs less than so many batches of one image
        return size, most, free
    need, fits = need_of(work), size
    while fits > 1 and need.of(fits) > free:
        fits //= 2
    return fits, need.of(size), free
