"""Figures of curves: accuracy against budget or steps, survival over the steps of an attack."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from lit_pursamere.names import shown
from lit_pursamere.report.curves import Survival, survivals, sweeps
from lit_pursamere.report.drawing import NothingToDraw
from lit_pursamere.report.figure_parts import caption_of, colour_of, draw_curve
from lit_pursamere.report.report import Report
from lit_pursamere.report.runs import eps_text
from lit_pursamere.report.style import (
    CYCLE,
    DASHES,
    MARKERS,
    caption,
    decorate,
    grid_lines,
    legend,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["survival_figure", "sweep_figure"]

NORMS = {"linf": "$\\ell_\\infty$", "l2": "$\\ell_2$", "l1": "$\\ell_1$"}


def sweep_figure(report: Report, parameter: Literal["eps", "steps"]) -> Figure:
    """Draw accuracy against the budget or the number of steps, for attacks that differ in nothing else.

    Raises:
        NothingToDraw: If there are no two such attacks.
    """
    found = sweeps(report, parameter)
    if not found:
        raise NothingToDraw(
            f"no two attacks differ in {parameter} alone; evaluate one at several, in one run or in several runs"
        )
    panels = list(dict.fromkeys(sweep.panel for sweep in found))
    attacks = list(dict.fromkeys(sweep.attack for sweep in found))
    names = [(sweep.panel, f"{sweep.system}, {sweep.attack}") for sweep in found]
    owners = [f"{sweep.system} {sweep.run}" if names.count(name) > 1 else sweep.system
              for sweep, name in zip(found, names, strict=True)]  # fmt: skip
    systems = list(dict.fromkeys(owners))

    figure = new_figure(3.2)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        norm, _, budget = shown(panel, "figure").partition(" ")
        symbol = NORMS.get(norm, norm)
        if parameter == "eps":
            decorate(axes, "", f"budget $\\varepsilon$ in {symbol}, pixels in [0, 1]", "accuracy (%)")
        else:
            decorate(axes, f"{symbol} {budget}".strip(), "attack steps", "accuracy (%)")
        for sweep, name, owner in zip(found, names, owners, strict=True):
            if sweep.panel == panel:
                label = shown(f"{name[1]} ({sweep.run})" if names.count(name) > 1 else name[1], "figure")
                marker = MARKERS[attacks.index(sweep.attack) % len(MARKERS)]
                dashes = DASHES[attacks.index(sweep.attack) % len(DASHES)]
                draw_curve(axes, sweep.points, report.interval, colour_of(systems, owner), marker, dashes, label)
        _value_ticks(axes, [x for sweep in found if sweep.panel == panel for x, _ in sweep.points], parameter)
        axes.set(ylim=(0, 102), yticks=range(0, 101, 20))
        grid_lines(axes, "both")
        axes.label_outer()
    legend(figure, 2)
    caption(figure, caption_of(report, [accuracy.n for sweep in found for _, accuracy in sweep.points]))
    return figure


def survival_figure(report: Report) -> Figure:
    """Draw the share of images that an attack has not fooled after k steps, by the view that it differentiates.

    A mark at the end of a curve is the verdict of the defence itself. Where it lies above, the view is easier to fool
    than the defence; the difference is what the attack loses on the way.

    Raises:
        NothingToDraw: If no attack noted when it first succeeded.
    """
    panels: list[tuple[str, list[Survival]]] = []
    for run in report.runs:
        for system in run.systems:
            if found := survivals(run, system, report.lines):
                title = f"{system} ({run.label})" if report.several else system
                panels.append((shown(title, "figure"), found))
    if not panels:
        raise NothingToDraw(
            "no record says after which step its image was first fooled (first_success); nothing to draw"
        )
    attacks = list(dict.fromkeys(curve.attack for _, found in panels for curve in found))

    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(0.9 + 2.3 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for number, (axes, (title, found)) in enumerate(zip(grid.flat, panels, strict=False)):
        decorate(axes, title, "attack steps", "not fooled yet (%)" if number % columns == 0 else "")
        for curve in found:
            _survival(axes, curve, CYCLE[attacks.index(curve.attack) % len(CYCLE)], attacks.index(curve.attack))
        axes.set(ylim=(0, 104), yticks=range(0, 101, 20))
        axes.set_xlim(left=0)
        locator: Any = axes.xaxis.get_major_locator()
        locator.set_params(integer=True)
        grid_lines(axes)
    legend(figure, 4)
    text = caption_of(report, [curve.n for _, found in panels for curve in found], intervals=False)
    caption(figure, f"Curves: by the view that the attack differentiates. Marks: the defence's verdict.\n{text}")
    return figure


def _value_ticks(axes: Axes, values: Sequence[float], parameter: str) -> None:
    ticks = sorted(set(values))
    if parameter == "steps" and ticks[-1] > 8 * ticks[1]:
        axes.set_xscale("symlog", base=2, linthresh=ticks[1])  # from the first step count on, a doubling is a length
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    elif parameter == "steps":
        locator: Any = axes.xaxis.get_major_locator()
        locator.set_params(integer=True)
    elif len(ticks) <= 8 and min(b - a for a, b in pairwise(ticks)) > 0.08 * ticks[-1]:
        axes.set_xticks(ticks, [eps_text(tick) if tick else "0" for tick in ticks])


def _survival(axes: Axes, curve: Survival, colour: str, number: int) -> None:
    dashes = DASHES[number % len(DASHES)]
    line: dict[str, Any] = {"color": colour, "linewidth": 1.4, "linestyle": (0, dashes) if dashes else "-"}
    mark: dict[str, Any] = {
        "color": colour,
        "marker": MARKERS[number % len(MARKERS)],
        "markersize": 6,
        "markeredgecolor": "white",
    }
    shares = [100 * share for share in curve.shares]
    axes.plot(range(len(shares)), shares, drawstyle="steps-post", **line)
    axes.plot([], [], label=shown(curve.attack, "figure"), **(line | mark))  # the legend's: curve and mark together
    if curve.verdict is not None:
        axes.plot([len(shares) - 1], [100 * curve.verdict], **mark, linestyle="", clip_on=False, zorder=3)
