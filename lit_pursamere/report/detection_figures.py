"""Figures of detection: the ROC of a detector, and histograms of its statistic on clean and attacked images.

Reference: Srinivasan et al. (2021), MALADE, Figure 7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_pursamere.names import shown
from lit_pursamere.report.drawing import NothingToDraw
from lit_pursamere.report.figure_parts import caption_of
from lit_pursamere.report.lines import Line
from lit_pursamere.report.report import Report
from lit_pursamere.report.style import (
    CYCLE,
    DASHES,
    GREY,
    PALE,
    SMALL,
    caption,
    decorate,
    grid_lines,
    legend,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lit_pursamere.report.detection import Detection

__all__ = ["histogram_figure", "roc_figure"]

BINS, MOST = 30, 8  # of a histogram; panels of a figure


def roc_figure(report: Report) -> Figure:
    """Draw the ROC of every detector, one curve per attack: attacked images rejected against clean ones rejected.

    Raises:
        NothingToDraw: If there was no detector.
    """
    lines = detected(report)
    figure = new_figure(3.6)
    axes = figure.subplots()
    decorate(axes, "", "clean images rejected (%)", "attacked images rejected (%)")
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
    for number, (line, detection) in enumerate(lines):
        dashes = DASHES[number // len(CYCLE) % len(DASHES)]
        points = [[100 * value for value in column] for column in zip(*detection.curve, strict=True)]
        name = f"{shown(f'{report.system_of(line)}, {line.attack}', 'figure')}: AUC {detection.auc:.3f}"
        colour = CYCLE[number % len(CYCLE)]
        axes.plot(*points, color=colour, linewidth=1.4, linestyle=(0, dashes) if dashes else "-", label=name)
    axes.set(xlim=(0, 100), ylim=(0, 102), aspect="equal")
    grid_lines(axes, "both")
    legend(figure, 2)
    caption(figure, caption_of(report, [line.headline.n for line, _ in lines], intervals=False))
    return figure


def histogram_figure(report: Report) -> Figure:
    """Draw how large the statistic of a detector is on clean and on attacked images, a panel for every attack.

    Raises:
        NothingToDraw: If there was no detector.
    """
    every = detected(report)
    lines = every[:MOST]
    several = len({report.system_of(line) for line, _ in lines}) > 1
    values = [value for _, detection in lines for value in (*detection.clean, *detection.attacked)]
    columns = min(2, len(lines))
    rows = -(-len(lines) // columns)
    figure = new_figure(0.8 + 1.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(lines) :]:
        axes.set_axis_off()
    for axes, (line, detection) in zip(grid.flat, lines, strict=False):
        title = f"{shown(line.attack, 'figure')}: AUC {detection.auc:.3f}"
        if several:
            title = f"{shown(report.system_of(line), 'figure')}\n{title}"
        decorate(axes, "", "statistic of the detector", "images")
        axes.set_title(title, fontsize=SMALL + 0.5, loc="left")
        span = (min(values), max(values)) if max(values) > min(values) else None
        axes.hist(detection.clean, BINS, range=span, color=PALE, edgecolor=GREY, linewidth=0.5, label="clean")
        axes.hist(
            detection.attacked, BINS, range=span, color=CYCLE[1], histtype="step", linewidth=1.4, label="attacked"
        )
        threshold = line.run.manifest.get("threshold")
        if isinstance(threshold, int | float):
            axes.axvline(threshold, color=CYCLE[0], linewidth=1, linestyle=(0, (4, 2)), label="threshold")
        axes.label_outer()
    legend(figure, 3)
    left_out = f"; the first {len(lines)} of {len(every)} attacks" if len(every) > len(lines) else ""
    caption(figure, caption_of(report, [line.headline.n for line, _ in lines], intervals=False) + left_out)
    return figure


def detected(report: Report) -> list[tuple[Line, Detection]]:
    """The lines of attacks of which a detector saw the images.

    Raises:
        NothingToDraw: If there are none.
    """
    lines = [(line, line.detection) for line in report.lines if line.detection and line.detection.curve]
    if not lines:
        raise NothingToDraw("no records hold the statistic of a detector; nothing to draw")
    return lines
