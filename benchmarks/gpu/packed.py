"""Reads the images that pack.py packed; and toy images that look a little like them, for runs without a pack.

    images, labels, positions = packed_images("runs/gpu/pack", "train")

`train` are images to train on, `val` the images of the official training split that CIFAR10(val_size=256) holds out,
`test` the first of the official test split.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

__all__ = ["INDEX", "SPLITS", "packed_images", "read_strip", "toy_images"]

SPLITS = ("train", "val", "test")
INDEX = "images.npz"  # labels and positions


def packed_images(folder: str | Path, split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Read a split of the pack.

    Args:
        folder: What pack.py made.
        split: `train`, `val` or `test`.

    Returns:
        Images (N, 3, 32, 32) uint8, class numbers (N,) int64, and positions in the official split (N,) int64; `val`
        counts in the official training split.

    Raises:
        FileNotFoundError: If there is no pack.
        ValueError: If the split is none of the three, or images are missing.
    """
    folder = Path(folder)
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"no packed images in {folder}; make them by python benchmarks/gpu/pack.py --data ROOT")
    with np.load(folder / INDEX) as index:
        labels, positions = (torch.from_numpy(index[f"{split}_{what}"]).long() for what in ("labels", "positions"))
    images = torch.cat([read_strip(path) for path in sorted(folder.glob(f"{split}-*.webp"))])
    if len(images) != len(labels):
        raise ValueError(f"{folder} holds {len(images)} {split} images and {len(labels)} labels; pack them again")
    return images, labels, positions


def read_strip(path: Path) -> Tensor:
    """Images (N, 3, S, S) uint8 of a picture that is S pixels wide and holds N of them, one below the other."""
    with Image.open(path) as file:
        pixels = torch.from_numpy(np.array(file.convert("RGB")))
    size = pixels.shape[1]
    return pixels.unflatten(0, (-1, size)).permute(0, 3, 1, 2).contiguous()


def toy_images(count: int, seed: int = 0, size: int = 32) -> tuple[Tensor, Tensor, Tensor]:
    """Smooth blobs of colour under stripes whose direction tells the class: can be denoised, and classified.

    Args:
        count: Number of images N.
        seed: Fixes them.
        size: Height and width S in pixels.

    Returns:
        As `packed_images`: images (N, 3, S, S) uint8, class numbers 0..9, each as often as the others, and positions.
    """
    draws = torch.Generator().manual_seed(seed)
    blobs = F.interpolate(torch.rand(count, 3, 4, 4, generator=draws), (size, size), mode="bilinear")
    labels = torch.arange(count) % 10
    angle = (labels * torch.pi / 10).view(-1, 1, 1)
    pixels = torch.arange(size) / size
    along = angle.cos() * pixels + angle.sin() * pixels[:, None]
    stripes = (6 * torch.pi * along).sin()[:, None]
    return (255 * (0.75 * blobs + 0.125 + 0.125 * stripes)).round().to(torch.uint8), labels, torch.arange(count)
