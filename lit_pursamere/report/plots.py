"""Figures into files: all that the records of a report allow, and that of a comparison beside its tables.

The functions that draw return a matplotlib Figure that belongs to nobody, see `style`.
"""

from __future__ import annotations

from pathlib import Path

from lit_pursamere.report.accuracy_figures import accuracy_figure, comparison_figure
from lit_pursamere.report.comparison import Comparison
from lit_pursamere.report.curve_figures import roc_figure, survival_figure, sweep_figure
from lit_pursamere.report.curves import survivals, sweeps
from lit_pursamere.report.formats import save_report
from lit_pursamere.report.report import Report

__all__ = ["save_comparison", "save_plots"]


def save_plots(report: Report, folder: str | Path) -> list[Path]:
    """Save every plot that the records allow as PNG.

    Args:
        report: One or several runs.
        folder: Where to save; made if need be.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"worst-case": accuracy_figure(report)}
    if any(line.detection and line.detection.curve for line in report.lines):
        figures["roc"] = roc_figure(report)
    for parameter in ("eps", "steps"):
        if sweeps(report, parameter):
            figures[f"accuracy-{parameter}"] = sweep_figure(report, parameter)
    if any(survivals(run, system) for run in report.runs for system in run.systems):
        figures["survival"] = survival_figure(report)
    files = []
    for name, figure in figures.items():
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], bbox_inches="tight")
    return files


def save_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write comparison.md, comparison.csv, comparison.tex and, if there are records, comparison.png into a folder."""
    save_report(comparison, folder)
    if comparison.lines:
        comparison_figure(comparison).savefig(Path(folder) / "comparison.png", bbox_inches="tight")
