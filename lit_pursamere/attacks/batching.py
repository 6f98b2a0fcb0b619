"""Groups of one fixed size: rounding, which may depend on the size of a batch, is then the same in every run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["cycle", "in_groups"]


def cycle(count: int, size: int | None, device: torch.device) -> Tensor:
    """Row numbers 0..count-1, and then again from 0 until there are `size` of them (None: once is enough)."""
    return torch.arange(size or count, device=device).remainder(count)


def in_groups(function: Callable[..., tuple[Tensor, ...]], size: int, *values: Tensor) -> list[Tensor]:
    """Apply a function of per-image tensors (B, ...) to groups of exactly `size` images, copies filling the last."""
    parts = []
    for group in zip(*(value.split(size) for value in values), strict=True):
        count = len(group[0])
        rows = cycle(count, size, group[0].device)
        parts.append([result[:count] for result in function(*(value[rows] for value in group))])
    return [torch.cat(column) for column in zip(*parts, strict=True)]
