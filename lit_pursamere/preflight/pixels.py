"""Whether pixels lie in [0, 1], and if not, in which of the usual units they are."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_pursamere.preflight.examined import Doubt, Examined
from lit_pursamere.preflight.usual import USUAL, per_channel

__all__ = ["pixels"]

TWICE = 1.01 / 255  # where 0..255 ends that was divided by 255 twice
TINY = 0.05  # a range of pixels in which eps 8/255 is most of the picture
ROUNDED = 0.1  # how far interpolation may leave the box


def pixels(examined: Examined) -> list[Doubt]:
    """Doubts about the values of pixels."""
    x = examined.read
    if not x.is_floating_point():
        return [Doubt(f"the images are {x.dtype}, not floats in [0, 1]: give x.float() / 255", stops=True)]
    if not x.isfinite().all():
        bad = int((~x.isfinite()).flatten(1).any(1).sum())
        return [
            Doubt(f"{bad} of {len(x)} images hold NaN or infinite pixels: leave them out, or mend them", stops=True)
        ]
    low, high = (float(value) for value in x.aminmax())
    if low < 0 or high > 1:
        return [
            Doubt(f"pixels range from {low:.4g} to {high:.4g}, not within [0, 1]: {units(x, low, high)}", stops=True)
        ]
    if 0 < high <= TWICE:
        return [Doubt(f"pixels reach only {high:.4g}: divided by 255 twice? Divide once", stops=True)]
    flat = int((x.flatten(1).amax(1) == x.flatten(1).amin(1)).sum())
    if flat == len(x):
        return [
            Doubt(f"each of {flat} images has one value in all of its pixels: look at how they are read", stops=True)
        ]
    found = []
    if high - low < TINY:
        found.append(f"pixels range from {low:.4g} to {high:.4g} only: stretch them to [0, 1], or choose eps with that")
    if flat > len(x) / 4:
        found.append(f"{flat} of {len(x)} images have one value in all of their pixels: look at how they are read")
    return [Doubt(what) for what in found]


def units(x: Tensor, low: float, high: float) -> str:
    """What images (n, C, H, W) outside the box seem to be, and how to put them into it."""
    if low >= -ROUNDED and high <= 1 + ROUNDED:
        return "resizing may do that; give x.clamp(0, 1)"
    if low >= 0:
        what = "they look like 0..255; " if 2 < high <= 255 else ""
        return f"{what}divide by the largest value that there can be, such as 255"
    if low >= -1 and high <= 1:
        return (
            "they look like [-1, 1]; give (x + 1) / 2, and normalise=(0.5, 0.5) if the network wants them as they were"
        )
    name = normalisation_of(x)
    if name is None:
        return "they look normalised; give plain pixels, and the normalisation as normalise=(mean, std)"
    mean, std = USUAL[name]
    return (
        f"they look normalised as {name}; give plain pixels, x * std + mean, and normalise=({mean}, {std}) "
        "if the classifier wants that"
    )


def normalisation_of(x: Tensor) -> str | None:
    """The usual normalisation that can have made the images, and whose range they fill best; None: none can."""
    low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
    filled: dict[str, float] = {}
    for name in USUAL:
        if (values := per_channel(name, x)) is not None:
            mean, std = (value.flatten() for value in values)
            bottom, top = low * std + mean, high * std + mean  # as pixels
            if (bottom >= -0.01).all() and (top <= 1.01).all():
                filled[name] = float(torch.stack([bottom, 1 - top]).abs().sum())
    return min(filled, key=filled.__getitem__, default=None)
