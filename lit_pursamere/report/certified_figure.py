"""The figure of certificates: certified accuracy over the radius, a curve per noise level, attacks as marks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_pursamere.names import shown
from lit_pursamere.report.certified import Attacked, Certified, radius_of
from lit_pursamere.report.drawing import NothingToDraw
from lit_pursamere.report.figure_parts import error_bars
from lit_pursamere.report.notes import INTERVAL_NAMES
from lit_pursamere.report.statistics import INTERVALS
from lit_pursamere.report.style import CYCLE, GREY, MARKERS, caption, decorate, grid_lines, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["certified_figure"]


def certified_figure(
    runs: Sequence[Certified], attacked: Sequence[Attacked] = (), interval: str = "wilson"
) -> Figure:  # fmt: skip
    """Draw certified accuracy over the radius with its interval; attacks are marks of the colour of their noise level.

    Raises:
        NothingToDraw: If there are no certificates.
    """
    curves = [(run, sigma) for run in runs for sigma in run.sigmas]
    if not curves:
        raise NothingToDraw("there are no certificates to draw")
    figure = new_figure(3.4)
    axes = figure.subplots()
    decorate(axes, "", "radius in $\\ell_2$, pixels in [0, 1]", "accuracy (%)")
    colours: dict[float | None, str] = {None: GREY}
    for number, (run, sigma) in enumerate(curves):
        colour = CYCLE[number % len(CYCLE)]
        colours.setdefault(sigma, colour)
        several = shown(f" ({run.label})", "figure") if len(runs) > 1 else ""
        _curve(axes, run, sigma, interval, colour, f"certified, $\\sigma$ = {sigma:g}{several}")
    for number, one in enumerate(attacked):
        values, accuracies = zip(*sorted(one.points.items()), strict=True)
        level = "" if one.sigma is None else f", $\\sigma$ = {one.sigma:g}"
        axes.errorbar(
            values, [100 * accuracy.value for accuracy in accuracies], yerr=error_bars(accuracies, interval),
            color=colours.get(one.sigma, GREY), marker=MARKERS[number % len(MARKERS)], markersize=4, linestyle="",
            elinewidth=0.8, capsize=2, label=shown(f"attacked: {one.system}", "figure") + level, clip_on=False,
        )  # fmt: skip
    axes.set(ylim=(0, 102), yticks=range(0, 101, 20))
    axes.set_xlim(left=0)
    grid_lines(axes, "both")
    legend(figure, 3)
    first, asked = runs[0], runs[0].settings
    counts = [len(run.of(sigma)) for run, sigma in curves]
    images = " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))
    caption(
        figure,
        f"{shown(str(first.manifest['data']), 'figure')}; {images} images, n = {asked['n']:,} draws, alpha = "
        f"{asked['alpha']:g}; 95 % {INTERVAL_NAMES[interval]} intervals",
    )
    return figure


def _curve(axes: Axes, run: Certified, sigma: float, interval: str, colour: str, label: str) -> None:
    radii = sorted({0.0, *(max(radius_of(row), 0.0) for row in run.of(sigma))})
    accuracies = [run.accuracy(sigma, radius) for radius in radii]
    ends = [INTERVALS[interval](one.correct, one.n) for one in accuracies]
    none = INTERVALS[interval](0, accuracies[0].n)
    values = [100 * one.value for one in accuracies] + [0.0]
    low, high = ([100 * end for end in column] for column in zip(*ends, none, strict=True))
    places = [*radii, radii[-1]]
    axes.plot(places, values, drawstyle="steps-pre", color=colour, linewidth=1.4, label=label)
    axes.fill_between(places, low, high, step="pre", color=colour, alpha=0.12, linewidth=0)
