"""Figures of a report: all that its records allow.

The functions that draw return a matplotlib Figure that belongs to nobody, see `style`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lit_pursamere.report.accuracy_figures import accuracy_figure
from lit_pursamere.report.curve_figures import survival_figure, sweep_figure
from lit_pursamere.report.detection_figures import histogram_figure, roc_figure
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.report.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "save_plots"]

FIGURES: dict[str, Callable[[Report], Figure]] = {
    "worst-case": accuracy_figure,
    "roc": roc_figure,
    "statistic": histogram_figure,
    "accuracy-eps": partial(sweep_figure, parameter="eps"),
    "accuracy-steps": partial(sweep_figure, parameter="steps"),
    "survival": survival_figure,
}


def save_plots(report: Report, folder: str | Path) -> list[Path]:
    """Save every plot that the records allow as PNG; one that fails is one line on stderr.

    Args:
        report: One or several runs.
        folder: Where to save; made if need be.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in FIGURES.items():
        file = folder / f"{name}.png"
        with beside(str(file)):
            save_figure(draw(report), file)
            files.append(file)
    return files
