"""Preflight: a look at a few images before an evaluation is paid for, because most mistakes are silent.

few images of all classes -> Examined;  for each of CHECKS: Examined -> doubts;  a doubt that stops is the last

A doubt is a line that says what was found and what to set. A check says nothing of what it cannot tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.defense import Defense
from lit_pursamere.preflight.accuracy import accuracy
from lit_pursamere.preflight.classes import classes
from lit_pursamere.preflight.examined import Doubt, Examined, Labels, few
from lit_pursamere.preflight.levels import levels
from lit_pursamere.preflight.memory import fitting_batch_size, memory
from lit_pursamere.preflight.pixels import pixels
from lit_pursamere.preflight.shapes import shapes
from lit_pursamere.seeding import forked_randomness

__all__ = ["CHECKS", "Doubt", "examine", "fitting_batch_size", "preflight"]

CHECKS = (pixels, shapes, classes, accuracy, levels, memory)  # what a check needs was checked by those before it


def preflight(
    defense: Defense,
    attacks: Mapping[str, Attack],
    x: Tensor,
    y: Tensor,
    *,
    class_names: Sequence[str] = (),
    normalised: bool = False,
    batch_size: int,
    seed: int = 0,
) -> list[Doubt]:
    """Look whether an evaluation makes sense, on a few of its images.

        for doubt in preflight(defense, attacks, x, y, batch_size=64):
            print(doubt.what)

    Args:
        defense: What will be attacked; nothing of it is changed.
        attacks: With what, by name.
        x: All images (N, C, H, W), which should lie in [0, 1].
        y: True classes (N,), integers.
        class_names: Names of the classes, as far as they have names.
        normalised: Whether the classifier stands behind a normalisation that the user named.
        batch_size: Images per forward pass.
        seed: Which images are looked at.

    Returns:
        Doubts, the gravest last: one with `stops` ends the look.

    Raises:
        ValueError: If x and y are not N images and N classes, or N is 0.
    """
    if x.ndim != 4 or y.shape != x.shape[:1] or not len(y):
        raise ValueError(
            f"an evaluation needs images (N, C, H, W) and classes (N,); got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    labels = Labels(y.tolist(), class_names)
    chosen = few(labels.all, seed)
    return examine(Examined(defense, attacks, x[chosen], y[chosen], x, labels, normalised, batch_size), seed)


def examine(examined: Examined, seed: int = 0) -> list[Doubt]:
    """What the checks say, see `preflight`; global generators, gradients and modes stay as they are."""
    doubts: list[Doubt] = []
    with torch.inference_mode(False), forked_randomness(seed, "preflight"):
        mine = examined.on_device()
        for check in CHECKS:
            doubts += check(mine)
            if any(doubt.stops for doubt in doubts):
                break
    return doubts
