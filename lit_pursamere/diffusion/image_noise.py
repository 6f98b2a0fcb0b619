"""Noise that follows an image: Gaussian draws as a function of a key, wherever in a batch the image stands.

References: Steele, Lea, Flood (2014), SplitMix64, counter-based; Box and Muller (1958).

    base = hash(key, stream, k, draw)      bits_i = splitmix64(base + i golden)      u_i, v_i = its upper and lower half
    two normals = sqrt(-2 log u_i) (cos 2 pi v_i, sin 2 pi v_i)

An evaluation says which images are at hand (`follow`), so that what fresh noise an image meets depends on the run's
seed, the image, the attack and the step alone: not on its neighbours, on interruptions or on the number of processes.
Without that, every purification draws new keys from torch's global CPU generator.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_pursamere.seeding import forked_randomness

__all__ = ["combine", "follow", "image_keys", "keyed_normal", "next_keys", "repeated_draws", "stepped"]

# As signed numbers, because torch's 64-bit integers are: they wrap around as unsigned ones do.
GOLDEN, FIRST, SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685


def scramble(z: Tensor) -> Tensor:
    """SplitMix64's finaliser, a bijection of 64-bit integers."""
    z = (z ^ _down(z, 30)) * FIRST
    z = (z ^ _down(z, 27)) * SECOND
    return z ^ _down(z, 31)


def _down(z: Tensor, bits: int) -> Tensor:
    """Shift as if z had no sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def combine(keys: Tensor, numbers: Tensor | int) -> Tensor:
    """New keys from keys and whole numbers."""
    if isinstance(numbers, Tensor):
        return scramble(keys + GOLDEN * (numbers.to(keys.device) + 1))
    return scramble(keys + _wrapped(GOLDEN * (numbers + 1)))


def _wrapped(number: int) -> int:
    """What a signed 64-bit integer makes of a number that may be too long for it."""
    return (number + 2**63) % 2**64 - 2**63


def image_keys(index: Tensor, *names: object) -> Tensor:
    """Keys of images (B,) by their positions in the data set and by what is done to them, "seed 0, ADP, PGD20"."""
    digest = hashlib.sha256(repr(names).encode()).digest()[:8]
    return combine(scramble(index.long()), int.from_bytes(digest, "big", signed=True) >> 1)


def keyed_normal(keys: Tensor, number: int, count: int, like: Tensor) -> Tensor:
    """Standard normal images, a function of key and number.

    Args:
        keys: 64-bit integers (B,).
        number: Which draw of a purification.
        count: Draws; draw j is that of `number + j`.
        like: (B, C, H, W), for shape, type and device.

    Returns:
        (count, B, C, H, W), of float32 precision.
    """
    keys, size = keys.to(like.device), math.prod(like.shape[1:])
    bases = torch.stack([combine(keys, number + j) for j in range(count)])
    bits = scramble(bases[..., None] + GOLDEN * torch.arange(1, (size + 1) // 2 + 1, device=like.device))
    radius = (((_down(bits, 32)).float() + 0.5) * 2.0**-32).log().mul(-2).clamp_min(0).sqrt()
    angle = (bits & 0xFFFFFFFF).float() * (2 * math.pi * 2.0**-32)
    normals = torch.cat([radius * angle.cos(), radius * angle.sin()], -1)[..., :size]
    return normals.reshape(count, *like.shape).to(like.dtype)


@dataclass
class Images:
    """The images of which a batch consists, and how many purifications of them have begun."""

    keys: Tensor
    begun: int = 0


AT_HAND: ContextVar[Images | None] = ContextVar("images at hand", default=None)


@contextmanager
def follow(keys: Tensor | None) -> Iterator[None]:
    """Within, batches consist of the images with these keys (B,), perhaps several times over; None: of anything."""
    token = AT_HAND.set(None if keys is None else Images(keys))
    try:
        yield
    finally:
        AT_HAND.reset(token)


def stepped(keys: Tensor | None, step: Tensor | int) -> Tensor | None:
    """Keys for one step (a number, or one per image) of what is done to images; None stays None."""
    return None if keys is None else combine(keys, step)


@contextmanager
def repeated_draws() -> Iterator[None]:
    """Wind fresh noise back afterwards: what comes next draws the same once more."""
    images = AT_HAND.get()
    begun = images.begun if images else 0
    with forked_randomness():
        yield
    if images:
        images.begun = begun


def next_keys(like: Tensor) -> Tensor:
    """A key for every image of a batch (B, C, H, W) that is about to be purified, (B,).

    Raises:
        ValueError: If images are followed and the batch is not a whole multiple of them.
    """
    images = AT_HAND.get()
    if images is None:
        return torch.randint(-(2**63), 2**63 - 1, (len(like),))
    times, rest = divmod(len(like), len(images.keys))
    if rest:
        raise ValueError(
            f"noise follows {len(images.keys)} images, but {len(like)} are to be purified; call the defence with all "
            "of them, or with several copies of all of them"
        )
    first, images.begun = images.begun, images.begun + times
    return torch.cat([combine(images.keys, first + j) for j in range(times)]) if times else images.keys[:0]
