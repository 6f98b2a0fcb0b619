"""What stands in for files that the stages before a run have yet to make: an estimate needs their shapes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jsonargparse import Namespace
from torch import Tensor

from lit_pursamere.data import ImageDataModule
from lit_pursamere.data.source import Source
from lit_pursamere.weights.cache import is_here

__all__ = ["forget_missing_weights", "pair_with_itself"]


def forget_missing_weights(config: object) -> list[str]:
    """Take every `checkpoint` that does not exist out of a configuration, so that weights are random.

    Args:
        config: What was parsed, at any depth; changed in place.

    Returns:
        The files, in order.
    """
    missing = []
    if isinstance(config, Namespace):
        config = vars(config)
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "checkpoint" and isinstance(value, str) and not is_here(value):
                missing.append(value)
                config[key] = None
            else:
                missing += forget_missing_weights(value)
    return list(dict.fromkeys(missing))


class Originals:
    """In the place of a purified set: every image is its own twin."""

    def __init__(self, sources: dict[str, Source]) -> None:
        self.sources = sources

    def __getitem__(self, index: int) -> Tensor:
        return self.sources["train"][index][0]

    def take(self, indices: Sequence[int]) -> np.ndarray:
        """Those images as they are stored, (N, C, H, W)."""
        source: Any = self.sources["train"]
        return source.images[torch.tensor(indices)].numpy()


def pair_with_itself(data: ImageDataModule) -> None:
    """Where pairs are asked for, pair every image with itself: it costs the same, without the purified set."""
    if data.purified is not None:
        data.twins = Originals(data.sources)
