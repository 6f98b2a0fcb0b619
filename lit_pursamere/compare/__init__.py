"""Comparisons: many purifiers under the same attacks, on the same images, in front of the same classifier."""

from lit_pursamere.compare.entry import Entry
from lit_pursamere.compare.plan import Plan, read_plan

__all__ = ["Entry", "Plan", "read_plan"]
