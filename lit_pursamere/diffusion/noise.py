"""Where Gaussian draws come from: randomness as a value that a caller can hand to a purifier.

    draw(stream, k, count, like) -> (count, 1, C, H, W) shared by the batch, or (count, B, C, H, W) fresh

Streams keep apart what an attacker may or may not know: the noise of a level, the forward and the reverse noise. What
the attacker knows is a property of the defence that he attacks (Liu et al., 2025, section 4):

| setting        | noise of the defence                | the attacker                                     |
| -------------- | ----------------------------------- | ------------------------------------------------ |
| white box      | `FreshNoise`                        | averages over draws                              |
| DW_Both        | `SeededNoise`                       | knows every draw: the defence is deterministic   |
| DW_Fwd         | `PartlySeededNoise`                 | knows the forward draws, averages over the rest  |
| DW_semi-K      | `NoiseTables` with K tables         | averages over tables of the set that is used     |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lit_pursamere.diffusion.image_noise import combine, keyed_normal, next_keys
from lit_pursamere.host import onto

__all__ = ["FreshNoise", "NoiseSource", "NoiseTables", "PartlySeededNoise", "SeededNoise", "noise_source"]

STREAMS = ("level", "forward", "reverse", "guide")


class NoiseSource(ABC):
    @abstractmethod
    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        """Draw `count` standard normal images for step `k` of a stream; dtype and device of `like` (B, C, H, W)."""

    def once(self, like: Tensor) -> NoiseSource:
        """The source for one purification of images like these (B, C, H, W): a function of stream, k and count."""
        return self

    def copy(self, number: int) -> NoiseSource:
        """The source of another purification of the same images, for an ensemble; copy 0 is the source itself."""
        return self


def check_stream(stream: str) -> int:
    if stream not in STREAMS:
        raise ValueError(f"unknown noise stream {stream!r}; known: {', '.join(STREAMS)}")
    return STREAMS.index(stream)


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
        generator = torch.Generator().manual_seed(self.seed + k + (check_stream(stream) << 30))
        noise = torch.randn((count, *like.shape[1:]), generator=generator, dtype=torch.float32)
        return onto(noise.unsqueeze(1), like.device, like.dtype)

    def copy(self, number: int) -> SeededNoise:
        return SeededNoise(self.seed + (number << 14))


@dataclass(frozen=True)
class FreshNoise(NoiseSource):
    """Independent draws for every image at every call.

    One purification is a function of keys that it gets at its beginning, see `image_noise`: from torch's global CPU
    generator, or, in an evaluation, from the image and what is done to it.
    """

    def once(self, like: Tensor) -> NoiseSource:
        return KeyedNoise(onto(next_keys(like), like.device))

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        return self.once(like).draw(stream, k, count, like)


@dataclass(frozen=True, eq=False)
class KeyedNoise(NoiseSource):
    """The draws of one purification of images with these keys (B,)."""

    keys: Tensor

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        return keyed_normal(self.keys, (check_stream(stream) << 50) + (k << 20), count, like)


@dataclass(frozen=True)
class PartlySeededNoise(NoiseSource):
    """Known draws in some streams, fresh ones in the others.

    Args:
        seed: Seed of the known streams, as in `SeededNoise`.
        streams: The known streams.
    """

    seed: int = 0
    streams: tuple[str, ...] = ("forward",)

    def __post_init__(self) -> None:
        SeededNoise(self.seed)
        if unknown := set(self.streams) - set(STREAMS):
            raise ValueError(f"unknown noise streams {sorted(unknown)}; known: {', '.join(STREAMS)}")

    def once(self, like: Tensor) -> NoiseSource:
        return PartlyKnown(self, FreshNoise().once(like))

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        return self.once(like).draw(stream, k, count, like)

    def copy(self, number: int) -> PartlySeededNoise:
        return PartlySeededNoise(self.seed + (number << 14), self.streams)


@dataclass(frozen=True, eq=False)
class PartlyKnown(NoiseSource):
    """The draws of one purification, some of them known."""

    source: PartlySeededNoise
    fresh: NoiseSource

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        source = SeededNoise(self.source.seed) if stream in self.source.streams else self.fresh
        return source.draw(stream, k, count, like)


@dataclass(frozen=True)
class NoiseTables(NoiseSource):
    """A finite set of complete noise tables; every image of every purification uses one of them at random.

    Args:
        tables: Number of tables; 1 is `SeededNoise`.
        seed: Table j is `SeededNoise(seed + 2^14 j)`: more steps than any purifier has lie between two tables.
    """

    tables: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tables < 1:
            raise ValueError(f"NoiseTables needs at least one table; got {self.tables}")
        self.table(self.tables - 1)

    def table(self, number: int) -> SeededNoise:
        return SeededNoise(self.seed + (number << 14))

    def once(self, like: Tensor) -> NoiseSource:
        return ChosenTables(self, tuple(combine(next_keys(like), 0).remainder(self.tables).tolist()))

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        raise RuntimeError("NoiseTables must be asked for the noise of one purification first: source.once(x)")


@dataclass(frozen=True)
class ChosenTables(NoiseSource):
    """One table for every image of a batch."""

    source: NoiseTables
    numbers: tuple[int, ...]

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        drawn = {n: self.source.table(n).draw(stream, k, count, like) for n in set(self.numbers)}
        return torch.cat([drawn[n] for n in self.numbers], dim=1)


def noise_source(seed: int | Literal["fresh"] | NoiseSource) -> NoiseSource:
    """The source that a purifier's `seed` means: a number, `fresh`, or a source as it is.

    Raises:
        ValueError: If it is none of these, or a number out of range.
    """
    if isinstance(seed, NoiseSource):
        return seed
    if seed == "fresh":
        return FreshNoise()
    if not isinstance(seed, int):
        raise ValueError(f"seed must be a number, 'fresh' or a NoiseSource; got {seed!r}")
    return SeededNoise(seed)
