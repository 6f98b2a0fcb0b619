"""Whether an attack can begin, and how many images of a batch fit into memory, from its first step on a few images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lit_pursamere.attacks import Attack, AutoAttack, Restarts, Transfer
from lit_pursamere.defense import Defense
from lit_pursamere.estimate.memory import free_bytes, most_of, need_of
from lit_pursamere.estimate.table import quantity
from lit_pursamere.preflight.examined import Doubt, Examined, first_line
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import STEP

__all__ = ["fitting_batch_size", "memory"]

IMAGES = 4  # that are worked on at most
LESS = "lower what an image needs (draws of the purifier, `eot_chunk` of attacks), or take another device"


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
    what = f"a batch of {counted(size)} needs about {quantity(needed, 'B')}, and {quantity(free, 'B')} are free"
    mend = f"set batch_size (`data.eval_batch_size`) to {fits:,}" if fits else LESS
    return [Doubt(f"{what}: {mend}")]


def fitting_batch_size(
    defense: Defense, attacks: Mapping[str, Attack], x: Tensor, batch_size: int, sharers: int = 1
) -> int:
    """The batch size, halved until a batch fits into the memory that is free on the device of the images.

    On a CPU that is what the machine, the container and `ulimit -v` have left; on a GPU what it has left. A batch is
    measured by the tensors of one step on a few images (`estimate.memory`), not by trying it.

    Args:
        defense: What will be attacked, on that device.
        attacks: With what, by name; none: images are only purified.
        x: Images (N, C, H, W) in [0, 1]; up to four of them are worked on.
        batch_size: Images per forward pass, as many as wanted.
        sharers: Processes that will share what is free.

    Raises:
        ValueError: If one image is too many; the message says what it needs and what is free.
    """
    fits, _, free = look(defense, attacks, x, batch_size, sharers)
    if not fits:
        one = look(defense, attacks, x, 1, sharers)[1]
        raise ValueError(
            f"not even a batch of 1 image fits: it needs about {quantity(one, 'B')}, and {quantity(free, 'B')} are "
            f"free; {LESS}"
        )
    return fits


def look(
    defense: Defense, attacks: Mapping[str, Attack], x: Tensor, size: int, sharers: int = 1
) -> tuple[int, float, int | None]:
    """How many images of a batch fit, halved until they do, the bytes that all of it needs, and those that are free.

    None fit where one does not.
    """
    free = free_bytes(x.device)
    if free is None:
        return size, 0.0, free
    free //= sharers
    few = x[:IMAGES].repeat(IMAGES, 1, 1, 1)[:IMAGES]
    work = partial(attack_once, defense, attacks, few)
    if (most := size * most_of(work, 1)) <= free:  # a batch needs less than so many batches of one image
        return size, most, free
    need, fits = need_of(work), size
    while fits and need.of(fits) > free:
        fits //= 2
    return fits, need.of(size), free


def attack_once(defense: Defense, attacks: Mapping[str, Attack], x: Tensor, count: int) -> None:
    """What takes the most memory of attacks on a defence, on the first `count` of images x (B, C, H, W)."""
    draws = max((draws_at_once(attack) for attack in attacks.values()), default=1)
    images = x[:count].repeat(draws, 1, 1, 1)
    step_once(defense.purifier, images, any(attack.view not in ("gray", "bpda") for attack in attacks.values()))
    with torch.enable_grad():
        logits = defense.classifier(images.requires_grad_())
        if logits.requires_grad:  # black-box attacks ask for no gradient
            logits.sum().backward()


def draws_at_once(attack: Attack) -> int:
    """Copies of an image that a step of an attack, or of the attacks that it is made of, passes on at once."""
    if inner := parts_of(attack):
        return max(map(draws_at_once, inner))
    draws, most = getattr(attack, "eot", 1), getattr(attack, "eot_chunk", 1)
    return draws if most is None else min(draws, most)


def parts_of(attack: Any) -> Sequence[Attack]:
    """The attacks that an attack runs in turn; none, if it is one by itself."""
    if isinstance(attack, AutoAttack):
        return attack.parts()
    return [attack.attack] if isinstance(attack, Restarts | Transfer) else getattr(attack, "attacks", ())


def counted(images: int) -> str:
    """ "1 image", "64 images"."""
    return "1 image" if images == 1 else f"{images:,} images"


class Enough(Exception):
    """Ends a purification after its first step."""


def step_once(purifier: Purifier, x: Tensor, derivative: bool) -> None:
    """Take the first step of a purification of images x, (B, C, H, W), and with `derivative` differentiate it."""

    def from_leaves(step: nn.Module, inputs: tuple) -> tuple:
        run, *state = inputs
        return run, *(tensor.detach().requires_grad_(derivative) for tensor in state)

    def end(step: nn.Module, inputs: tuple, result: tuple[Tensor, ...]) -> None:
        outputs = [tensor for tensor in result if tensor.requires_grad]
        if derivative and outputs:
            torch.autograd.grad(outputs, inputs[1:], [torch.ones_like(one) for one in outputs], allow_unused=True)
        raise Enough

    hooks = STEP.register_forward_pre_hook(from_leaves), STEP.register_forward_hook(end)
    try:
        with torch.set_grad_enabled(derivative):
            purifier(x.clone().requires_grad_(derivative))
    except Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
