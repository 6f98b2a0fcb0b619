"""Randomness of training as a function of where the run stands, so that a resumed run repeats an uninterrupted one."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["forked_randomness", "generator", "global_generators", "kept_randomness", "reseed", "run_seed"]


def run_seed() -> int:
    """The number that `seed_everything` was given, the same on every process; 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def mixed(*key: int | str) -> int:
    """One number of 32 bits, as many as the CPU generator uses of its seed, from a tuple of numbers and texts."""
    numbers = [int(hashlib.sha256(k.encode()).hexdigest()[:16], 16) if isinstance(k, str) else k for k in key]
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose draws are fixed by a tuple of numbers and texts."""
    return torch.Generator().manual_seed(mixed(*key))


def reseed(*key: int | str) -> None:
    """Set torch's global generators, of the CPU and of the accelerator, by a tuple of numbers and texts."""
    torch.manual_seed(mixed(*key))


def global_generators() -> list[bytes]:
    """Where the global generators of torch, NumPy and Python stand, to be compared with where they stood."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    others = pickle.dumps((np.random.get_state(), random.getstate()))
    return [others, *(state.numpy().tobytes() for state in (torch.get_rng_state(), *devices))]


@contextmanager
def kept_randomness() -> Iterator[None]:
    """Put the generators of NumPy and of Python, which this package leaves alone, back afterwards."""
    before = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])


@contextmanager
def forked_randomness(*key: int | str) -> Iterator[None]:
    """Put torch's global generators back afterwards; within, they are set by numbers and texts, if there are any."""
    # Seeding touches the generators of all devices, not only of the one with the images.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        if key:
            reseed(*key)
        yield
