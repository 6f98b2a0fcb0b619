"""Estimate: what a run will cost, said before it starts, from its configuration alone."""

from lit_pursamere.estimate.devices import Estimate, clocked, devices_of
from lit_pursamere.estimate.stages import Stage, stages_of
from lit_pursamere.estimate.table import told

__all__ = ["Estimate", "Stage", "clocked", "devices_of", "stages_of", "told"]
