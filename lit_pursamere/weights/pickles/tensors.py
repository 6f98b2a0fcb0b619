"""Tensors on the numbers of a file, and what a file is refused for."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor

__all__ = ["NeedsCode", "Refused", "Room", "tensor"]

DIMENSIONS_AT_MOST = 64  # torch computes with no more


class Refused(ValueError):
    """The file is not what it should be, or asks for what no weight file asks for."""


class NeedsCode(Refused):
    """The file can be read in full only by running what it names."""


class Room:
    """How much content a file of so many bytes may make: it can ask for copies without end."""

    def __init__(self, size: int) -> None:
        self.left = 8 * size + (1 << 28)

    def take(self, value: Any) -> None:
        """Raise Refused where another value is too much."""
        self.left -= value.numel() * value.itemsize if isinstance(value, Tensor) else sys.getsizeof(value)
        if self.left < 0:
            raise Refused("it makes far more content than it holds")


def tensor(flat: Any, offset: int, size: tuple, stride: tuple, *more: Any) -> Tensor:
    """A tensor on the numbers of a storage, which is a tensor of one dimension and may serve others as well."""
    if not isinstance(flat, Tensor) or flat.dim() != 1:
        raise Refused(f"a tensor is built on a {type(flat).__name__}")
    if any(more[2:]):  # behind the wish for gradients, and hooks
        raise Refused("a tensor in it is a conjugate or negative view; save what its `resolve_conj()` returns")
    if len(size) > DIMENSIONS_AT_MOST:
        raise Refused(f"a tensor has {len(size)} dimensions")
    if len(size) != len(stride) or not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
        raise Refused("a tensor has a shape that is none")
    count = math.prod(size)
    if count == 0:
        return torch.empty(size, dtype=flat.dtype)
    if max(count, offset + 1 + sum((n - 1) * s for n, s in zip(size, stride, strict=True))) > len(flat):
        raise Refused("a tensor reaches beyond its storage")
    return flat.as_strided(size, stride, offset + flat.storage_offset())
