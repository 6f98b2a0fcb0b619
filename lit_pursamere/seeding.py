"""Randomness of training as a function of where the run stands, so that a resumed run repeats an uninterrupted one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["forked_randomness", "generator", "reseed", "run_seed"]


def run_seed() -> int:
    """The number that `seed_everything` was given, the same on every process; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def mixed(*key: int) -> int:
    """One number of 32 bits, as many as the CPU generator uses of its seed, from a tuple of numbers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def generator(*key: int) -> torch.Generator:
    """A CPU generator whose draws are fixed by a tuple of numbers."""
    return torch.Generator().manual_seed(mixed(*key))


def reseed(*key: int) -> None:
    """Set torch's global generators, of the CPU and of the accelerator, by a tuple of numbers."""
    torch.manual_seed(mixed(*key))


@contextmanager
def forked_randomness(*key: int) -> Iterator[None]:
    """Put torch's global generators back afterwards; within, they are set by a tuple of numbers, if there is one."""
    # Seeding touches the generators of all devices, not only of the one with the images.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        if key:
            reseed(*key)
        yield
