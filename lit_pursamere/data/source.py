"""What a split of a data set is to those who read it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

__all__ = ["Source"]


class Source(Protocol):
    """Images in order, each with its class."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """An image (C, H, W) in [0, 1] and its class."""
