"""The picture of a comparison: a line per purifier, a mark per attack, the worst case with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_pursamere.names import shown
from lit_pursamere.report.comparison import Comparison
from lit_pursamere.report.report import WORST
from lit_pursamere.report.style import (
    CYCLE,
    INK,
    MARKERS,
    PALE,
    SMALL,
    caption,
    decorate,
    grid_lines,
    new_figure,
)
from lit_pursamere.report.verdicts import CLEAN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["comparison_figure"]


def comparison_figure(comparison: Comparison) -> Figure:
    """Draw accuracies: clean, under every attack, and in the worst case with its 95 % interval.

    Raises:
        ValueError: If there are no records yet.
    """
    if not comparison.columns:
        raise ValueError("there are no records to draw yet")
    rows = [contestant for contestant in comparison.contestants if contestant.lines]
    attacks = [name for name in comparison.columns if name != CLEAN and not name.startswith(WORST)]
    figure = new_figure(1.1 + 0.3 * len(rows))
    axes = figure.subplots()
    decorate(axes, "", "accuracy (%)", "")
    for y, row in enumerate(rows):
        values = [100 * line.headline.value for line in row.lines.values()]
        axes.plot([min(values), max(values)], [y, y], color=PALE, linewidth=3, solid_capstyle="round", zorder=1)

    def marks(column: str, label: str, shift: float = 0, **style: object) -> None:
        found = [
            (100 * row.lines[column].headline.value, y + shift) for y, row in enumerate(rows) if column in row.lines
        ]
        axes.plot(*zip(*found, strict=True), linestyle="", label=shown(label, "figure"), clip_on=False, **style)

    if CLEAN in comparison.columns:
        marks(CLEAN, CLEAN, marker="o", markersize=6, color="white", markeredgecolor=INK, zorder=4)
    for number, name in enumerate(attacks):
        marker, colour = MARKERS[number % len(MARKERS)], CYCLE[number % len(CYCLE)]
        shift = 0.6 * ((number + 0.5) / len(attacks) - 0.5)  # so that equal values stay visible
        marks(name, name, shift, marker=marker, markersize=4, color=colour, zorder=5)
    if WORST in comparison.columns:
        for y, row in enumerate(rows):
            if WORST in row.lines:
                ends = [100 * end for end in row.lines[WORST].headline.interval]
                axes.plot(ends, [y, y], color=INK, linewidth=0.9, zorder=3, clip_on=False)
        marks(WORST, "worst case, 95 % interval", marker="|", markersize=15, color=INK, markeredgewidth=2, zorder=2)
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)))
    axes.set_yticklabels([shown(row.run.label, "figure") + (" *" if row.missing else "") for row in rows])
    axes.tick_params(axis="y", length=0)
    grid_lines(axes, "x")
    style = {"ncols": 3, "frameon": False, "fontsize": SMALL + 0.5, "labelcolor": INK}
    figure.legend(loc="outside upper left", **style)
    runs = comparison.runs
    unfinished = "; * incomplete" if any(row.missing for row in rows) else ""
    caption(figure, f"{shown(runs[0].data, 'figure')}; n = {runs[0].images}; success: {runs[0].success}{unfinished}")
    return figure
