"""`lit-pursamere report`: the table of test runs again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from lit_pursamere.report import FORMATS, INTERVALS, make_report, save_report
from lit_pursamere.report.plots import save_plots

__all__ = ["report"]


def report(
    runs: list[Path],
    format: Literal[tuple(FORMATS)] = "markdown",  # type: ignore[valid-type]
    interval: Literal[tuple(INTERVALS)] = "wilson",  # type: ignore[valid-type]
    mix: bool = False,
    figures: bool = False,
    output: Path | None = None,
) -> None:
    """Print the table of test runs, and write report.md, report.csv and report.tex beside the records.

    Several runs come into one table, which is written only if --output says where.

    Args:
        runs: Output folders of `lit-pursamere test`.
        format: What to print.
        interval: The 95 % interval.
        mix: Allow runs that differ in more than systems and attacks.
        figures: Draw accuracies and survival as PNG as well.
        output: Folder to write to (default: that of a single run).

    Raises:
        ValueError: If figures have no folder, or runs are not comparable.
    """
    folder = output or (runs[0] if len(runs) == 1 else None)
    if figures and folder is None:
        raise ValueError(f"where should the figures of {len(runs)} runs go? Say --output DIR")
    table = make_report(runs, interval, mix)
    if folder is not None:
        save_report(table, folder)
    print(FORMATS[format][1](table), end="")
    if figures and folder is not None:
        for file in save_plots(table, folder):
            print(f"wrote {file}", file=sys.stderr)  # beside the table, which may go into a file
