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
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from lit_pursamere.diffusion.image_noise import combine, keyed_normal, next_keys, scramble
from lit_pursamere.host import onto

__all__ = ["FreshNoise", "NoiseSource", "NoiseTables", "PartlySeededNoise", "SeededNoise"]

STREAMS = ("level", "forward", "reverse", "guide", "smoothing")
GENERATED = 4  # so many of them can the 32 bits of a seed of torch's generator keep apart


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
    """The same draws at every call and for every image of a batch, on every device: a noise table.

    Sharing one draw between all images makes a purifier a function of the image alone: neither the position in a
    batch nor the batch size can matter.

    Step k of stream number s < 4 is drawn by torch's CPU generator with seed k + 2^30 s for seed 0, and from 64-bit
    keys, see `image_noise`, in all other cases: of a seed that generator uses 32 bits, too few to keep seeds, branches,
    streams and steps apart.

    Args:
        seed: Number in [0, 2^30).
        branch: Which of the tables that descend from the seed: () the first, (3,) its copy 3, (3, 1) copy 1 of that.
    """

    seed: int = 0
    branch: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**30:
            raise ValueError(f"a seed of noise is a whole number in [0, 2^30); got {self.seed!r}")

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        shape = like.shape[1:]
        if self.seed or self.branch or check_stream(stream) >= GENERATED:
            one = torch.empty((1, *shape), device="cpu")
            noise = KeyedNoise(self.keys).draw(stream, k, count, one)
        else:
            generator = torch.Generator().manual_seed(k + (check_stream(stream) << 30))
            noise = torch.randn((count, 1, *shape), generator=generator, dtype=torch.float32)
        return onto(noise, like.device, like.dtype)

    @property
    def keys(self) -> Tensor:
        """The key (1,) of seed and branch."""
        return reduce(combine, self.branch, scramble(torch.tensor([self.seed], device="cpu")))

    def copy(self, number: int) -> SeededNoise:
        return replace(self, branch=(*self.branch, number)) if number else self


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
        branch: Branch of the known streams, as in `SeededNoise`.
    """

    seed: int = 0
    streams: tuple[str, ...] = ("forward",)
    branch: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _ = self.known  # complains of the seed
        if unknown := set(self.streams) - set(STREAMS):
            raise ValueError(f"unknown noise streams {sorted(unknown)}; known: {', '.join(STREAMS)}")

    @property
    def known(self) -> SeededNoise:
        """Where the known streams come from."""
        return SeededNoise(self.seed, self.branch)

    def once(self, like: Tensor) -> NoiseSource:
        return PartlyKnown(self, FreshNoise().once(like))

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        return self.once(like).draw(stream, k, count, like)

    def copy(self, number: int) -> PartlySeededNoise:
        return replace(self, branch=self.known.copy(number).branch)


@dataclass(frozen=True, eq=False)
class PartlyKnown(NoiseSource):
    """The draws of one purification, some of them known."""

    source: PartlySeededNoise
    fresh: NoiseSource

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        source = self.source.known if stream in self.source.streams else self.fresh
        return source.draw(stream, k, count, like)


@dataclass(frozen=True)
class NoiseTables(NoiseSource):
    """A finite set of complete noise tables; every image of every purification uses one of them at random.

    Args:
        tables: Number of tables; 1 is `SeededNoise`.
        seed: Table j is copy j of `SeededNoise(seed)`.
    """

    tables: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tables < 1:
            raise ValueError(f"NoiseTables needs at least one table; got {self.tables}")
        self.table(0)

    def table(self, number: int) -> SeededNoise:
        return SeededNoise(self.seed).copy(number)

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
