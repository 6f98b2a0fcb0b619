"""The one number of a run: what its defence withstands of all attacks together."""

from __future__ import annotations

from lit_pursamere.report.lines import WORST, Line
from lit_pursamere.report.report import Report

__all__ = ["headline", "worst_line"]


def worst_line(report: Report) -> Line:
    """The worst case of the first run's defence over its attacks; without attacks its clean line."""
    system = report.runs[0].system
    lines = [line for line in report.lines if line.system == system and line.run is report.runs[0]]
    return next((line for line in lines if line.attack == WORST), lines[-1])


def headline(report: Report) -> str:
    """In words: "PurSAMERE, worst case 75.0 [68.6, 80.5] % of 200 images"."""
    line = worst_line(report)
    return f"{line.system}, {line.attack} {line.headline.text(report.interval)} % of {line.headline.n} images"
