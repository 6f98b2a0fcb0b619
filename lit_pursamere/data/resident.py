"""Training batches from images that live on the device, so that nothing is read or copied while a training runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lit_pursamere.data.training import Batch, TrainingLoader

__all__ = ["ResidentLoader", "to_float"]


class ResidentLoader(TrainingLoader):
    """Shuffled training batches (x, y, index) from tensors in device memory.

    Args:
        versions: P tensors (N, C, H, W), uint8 in 0..255 or floats in [0, 1]: the images, then perhaps their twins.
        labels: Class numbers (N,).
        index: Position of each image in its source split, (N,).
        batch_size: As in `TrainingLoader`.
        device: Where the images live.
        options: Other arguments as in `TrainingLoader`.
    """

    def __init__(
        self,
        versions: list[Tensor],
        labels: Tensor,
        index: Tensor,
        batch_size: int,
        device: torch.device | str = "cpu",
        **options: Any,
    ) -> None:
        if any(len(images) != len(labels) for images in versions) or len(index) != len(labels):
            raise ValueError(f"{[len(v) for v in versions]} images, {len(labels)} labels and {len(index)} indices")
        super().__init__(len(labels), batch_size, device, **options)
        self.versions = [images.to(device) for images in versions]
        self.labels, self.index = labels.to(device), index.to(device)

    def fetch(self, batches: list[Tensor]) -> Iterator[Batch]:
        for positions in batches:
            chosen = positions.to(self.labels.device, non_blocking=True)
            images = [to_float(version[chosen]) for version in self.versions]
            x = torch.stack(images, 1) if len(images) > 1 else images[0]
            yield x, self.labels[chosen], self.index[chosen]


def to_levels(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8 where that is exactly what they are, otherwise as they are."""
    if images.dtype == torch.uint8:
        return images
    levels = (images * 255).round().to(torch.uint8)
    return levels if torch.equal(to_float(levels).to(images.dtype), images) else images


def to_float(images: Tensor) -> Tensor:
    """Images in [0, 1] as float32, from uint8 in 0..255 or floats in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()
