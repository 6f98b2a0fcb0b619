"""The 1,797 real handwritten digits that come with scikit-learn: 8x8 pixels, no download.

Reference: Alpaydin & Kaynak (1998), "Optical Recognition of Handwritten Digits", UCI repository.
"""

from __future__ import annotations

from types import MappingProxyType

import torch

from lit_pursamere.data.base import ArrayDataset, ImageDataModule, Split
from lit_pursamere.data.source import Source

__all__ = ["Digits"]

TEST_IMAGES = 397


class Digits(ImageDataModule):
    """Handwritten digits, grey values k/16, (1, 8, 8): 1,400 training and 397 test images.

    The images are shuffled once with a fixed seed before they are split, because the original order runs through
    the writers. Arguments as in `ImageDataModule`.
    """

    name = "digits"
    num_classes, channels, image_size = 10, 1, 8
    counts = MappingProxyType({"train": 1400, "test": TEST_IMAGES})
    class_names = tuple("0123456789")

    def load(self, split: Split) -> Source:
        from sklearn.datasets import load_digits  # heavy, and needed for this data set alone

        raw = load_digits()
        images = torch.from_numpy(raw.images).float().unsqueeze(1) / 16
        labels = torch.from_numpy(raw.target)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
        chosen = order[:TEST_IMAGES] if split == "test" else order[TEST_IMAGES:]
        return ArrayDataset(images[chosen], labels[chosen])
