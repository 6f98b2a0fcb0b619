"""Randomness of training as a function of where the run stands, so that a resumed run repeats an uninterrupted one."""

from __future__ import annotations

import os

import numpy as np
import torch

__all__ = ["generator", "reseed", "run_seed"]


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
