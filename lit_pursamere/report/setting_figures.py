"""Figures of sweeps: accuracy, clean and under each attack, over a setting in which rows of a comparison differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lit_pursamere.names import shown
from lit_pursamere.report.comparison import Comparison
from lit_pursamere.report.drawing import NothingToDraw
from lit_pursamere.report.figure_parts import caption_of, draw_curve
from lit_pursamere.report.lines import WORST
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.style import CYCLE, DASHES, MARKERS, caption, decorate, grid_lines, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["setting_figure"]

COLUMNS = 3  # of panels
SHIFT = 2.5  # points between the whiskers of one value
Points = dict[str, Accuracy]  # by value of what is swept, as text


def setting_figure(comparison: Comparison, axis: str) -> Figure:
    """Draw accuracy over what is swept with 95 % intervals: a curve per attack, or of several purifiers a panel.

    Args:
        comparison: With `places`.
        axis: Name of what is swept, as the names of rows have it.

    Raises:
        NothingToDraw: If no two values of it have records yet.
    """
    curves = curves_over(comparison, axis)
    if not curves:
        raise NothingToDraw(f"no two values of {axis} have records yet")
    names = list(dict.fromkeys(name for name, _ in curves))
    attacks = list(dict.fromkeys(attack for _, attack in curves))
    panels = attacks if len(names) > 1 else names
    drawn = names if len(names) > 1 else attacks

    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure(0.9 + 2.3 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    known = [place.values[axis] for place in comparison.places.values() if axis in place.values]
    at = positions([value for value in known if any(value in points for points in curves.values())])
    for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        label = "accuracy (%)" if number % columns == 0 else ""
        decorate(axes, shown(panel, "figure"), shown(axis, "figure"), label)
        for (name, attack), points in curves.items():
            if panel in (name, attack):
                rank = drawn.index(name if len(names) > 1 else attack)
                style = CYCLE[rank % len(CYCLE)], MARKERS[rank % len(MARKERS)], DASHES[rank % len(DASHES)]
                placed = sorted(
                    ((at[value], accuracy) for value, accuracy in points.items()), key=lambda point: point[0]
                )
                draw_curve(
                    axes,
                    placed,
                    comparison.interval,
                    *style,
                    shown(drawn[rank], "figure"),
                    SHIFT * (rank - (len(drawn) - 1) / 2),
                )
        name_values(axes, at)
        axes.set(ylim=(0, 102), yticks=range(0, 101, 20))
        grid_lines(axes, "both")
    legend(figure, 4)
    caption(figure, caption_of(comparison, [accuracy.n for points in curves.values() for accuracy in points.values()]))
    return figure


def curves_over(comparison: Comparison, axis: str) -> dict[tuple[str, str], Points]:
    """What there is to draw, by curve and attack, of two values at least; worst cases stand in the table."""
    found: dict[tuple[str, str], Points] = {}
    for label, place in comparison.places.items():
        lines = comparison.pivot.get(label, {}) if axis in place.values else {}
        for attack, line in lines.items():
            if not attack.startswith(WORST):
                found.setdefault((place.curve(axis), attack), {})[place.values[axis]] = line.headline
    return {key: points for key, points in found.items() if len(points) > 1}


def positions(values: Sequence[str]) -> dict[str, float]:
    """Where values stand on their axis: numbers where they are, words side by side."""
    known = list(dict.fromkeys(values))
    try:
        return {value: float(value) for value in known}
    except ValueError:
        return {value: float(number) for number, value in enumerate(known)}


def geometric(numbers: Sequence[float]) -> bool:
    """Whether numbers, but for a zero, are spaced more evenly by ratio than by difference."""
    ordered = sorted({number for number in numbers if number > 0})
    if len(ordered) < 3 or min(numbers) < 0:
        return False

    def evenness(places: Sequence[float]) -> float:
        gaps = [b - a for a, b in pairwise(places)]
        return min(gaps) / max(gaps)

    return evenness([math.log(number) for number in ordered]) > evenness(ordered)


def name_values(axes: Axes, at: dict[str, float]) -> None:
    """Give the axis a tick and room for every value, and a logarithmic scale where they are geometric."""
    least, most = min(at.values()), max(at.values())
    room = 0.08 * (most - least)
    ends = least - room, most + room
    if geometric([*at.values()]):
        first = min(number for number in at.values() if number > 0)
        room = (most / first) ** 0.08
        ends = -0.2 * first if least == 0 else least / room, most * room
        axes.set_xscale("symlog", base=2, linthresh=first) if least == 0 else axes.set_xscale("log", base=2)
    axes.set_xticks([*at.values()], [shown(value, "figure") for value in at])
    axes.set_xlim(*ends)
    axes.minorticks_off()
