"""Normalisations that networks for small images were trained behind: (x - mean) / std per channel.

Sources: torchvision's documentation of its ImageNet weights; the channels' mean and deviation of the training images of
the other sets, as their tutorials and model zoos give them.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["USUAL", "per_channel"]

USUAL: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "CIFAR-10": ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
    "CIFAR-100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "ImageNet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "MNIST": ((0.1307,), (0.3081,)),
    "Fashion-MNIST": ((0.286,), (0.353,)),
    "[-1, 1]": ((0.5,), (0.5,)),
    "0..255": ((0.0,), (1 / 255,)),
}


def per_channel(name: str, x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and deviation of a usual normalisation, (1, C or 1, 1, 1), for images x; None: they have other channels."""
    mean, std = (x.new_tensor(values).view(1, -1, 1, 1) for values in USUAL[name])
    return (mean, std) if mean.shape[1] in (1, x.shape[1]) else None
