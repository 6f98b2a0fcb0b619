"""Purifiers: one paper per file."""

from lit_pursamere.purifiers.base import Identity, Purifier
from lit_pursamere.purifiers.pursamere import PurSAMERE, Trajectory

__all__ = ["Identity", "PurSAMERE", "Purifier", "Trajectory"]
