"""Where Gaussian draws come from: randomness as a value that a caller can hand to a purifier.

    draw(stream, k, count, like) -> (count, 1, C, H, W) shared by the batch, or (count, B, C, H, W) fresh

Streams keep apart what an attacker may or may not know: the noise of a level, the forward and the reverse noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FreshNoise", "NoiseSource", "SeededNoise"]

STREAMS = ("level", "forward", "reverse", "guide")


class NoiseSource(ABC):
    @abstractmethod
    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        """Draw `count` standard normal images for step `k` of a stream; dtype and device of `like` (B, C, H, W)."""


@dataclass(frozen=True)
class SeededNoise(NoiseSource):
    """The same draws at every call and for every image of a batch, on every device.

    Sharing one draw between all images makes a purifier a function of the image alone: neither the position in a
    batch nor the batch size can matter.

    Args:
        seed: Step k of stream `level` uses the generator seed `seed + k`; other streams start 2^30 apart.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**30:
            raise ValueError(f"SeededNoise needs a seed in [0, 2^30); got {self.seed}")

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        if stream not in STREAMS:
            raise ValueError(f"unknown noise stream {stream!r}; known: {', '.join(STREAMS)}")
        generator = torch.Generator().manual_seed(self.seed + k + (STREAMS.index(stream) << 30))
        noise = torch.randn((count, *like.shape[1:]), generator=generator, dtype=torch.float32)
        return noise.unsqueeze(1).to(like)


@dataclass(frozen=True)
class FreshNoise(NoiseSource):
    """Independent draws for every image at every call, from torch's global generator of the image's device."""

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        return torch.randn((count, *like.shape), dtype=like.dtype, device=like.device)
