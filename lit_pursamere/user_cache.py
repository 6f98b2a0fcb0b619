"""The folder that keeps what is made or fetched once on a machine: weights that were downloaded, compiled kernels."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_dir

__all__ = ["CACHE", "cache_folder"]

CACHE = "LIT_PURSAMERE_CACHE"  # in the environment: another folder for the cache


def cache_folder() -> Path:
    """LIT_PURSAMERE_CACHE, or the customary folder of the system."""
    return Path(os.environ.get(CACHE) or user_cache_dir("lit-pursamere", appauthor=False)).expanduser()
