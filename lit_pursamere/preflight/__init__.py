"""A look at a few images before an evaluation is paid for: a check per file, listed in `look.CHECKS`."""

from lit_pursamere.preflight.examined import Doubt
from lit_pursamere.preflight.look import fitting_batch_size, preflight

__all__ = ["Doubt", "fitting_batch_size", "preflight"]
