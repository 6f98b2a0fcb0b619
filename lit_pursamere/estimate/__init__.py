"""Estimate: what a run will cost, said before it starts, from its configuration and a few seconds of measurements."""

from lit_pursamere.estimate.run import Estimate, run_estimate
from lit_pursamere.estimate.stages import Stage, table
from lit_pursamere.estimate.stand_ins import forget_missing_weights

__all__ = ["Estimate", "Stage", "forget_missing_weights", "run_estimate", "table"]
