"""What a split of a data set is to those who read it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

__all__ = ["Source", "source_digest"]


class Source(Protocol):
    """Images in order, each with its class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image (C, H, W) in [0, 1] and its class."""


def source_digest(source: Source, indices: Sequence[int]) -> str:
    """Hex digest of images of a source: their positions, pixels and labels. Every one of them is read."""
    digest = hashlib.sha256()
    for index in indices:
        x, y = source[index]
        digest.update(f"{index} {int(y)} {tuple(x.shape)}".encode())
        digest.update(x.contiguous().numpy().data)
    return digest.hexdigest()[:16]
