"""Figures of accuracies: bars of a report, and a line per purifier of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lit_pursamere.names import shown
from lit_pursamere.report.comparison import Comparison
from lit_pursamere.report.drawing import NothingToDraw
from lit_pursamere.report.figure_parts import caption_of, colour_of, error_bars
from lit_pursamere.report.lines import WORST
from lit_pursamere.report.report import Report
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.style import (
    CYCLE,
    GREY,
    INK,
    MARKERS,
    NORMAL,
    PALE,
    SMALL,
    WIDTH,
    caption,
    decorate,
    grid_lines,
    legend,
    new_figure,
    note,
)
from lit_pursamere.report.verdicts import CLEAN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["accuracy_figure", "comparison_figure"]

NUMBER_WIDTH = 0.2  # inches; over narrower bars the numbers would touch


def accuracy_figure(report: Report) -> Figure:
    """Draw bars: clean accuracy, every attack and the worst cases, for every system, with 95 % intervals."""
    series: dict[str, dict[str, Accuracy]] = {}
    for line in report.lines:
        series.setdefault(report.system_of(line), {})[line.attack] = line.headline
    names = list(dict.fromkeys(line.attack for line in report.lines))
    names.sort(key=lambda name: (name.startswith(WORST), name == WORST))  # stable: those of the first run lead

    figure = new_figure(3.2)
    axes = figure.subplots()
    decorate(axes, "", "", "accuracy (%)")
    width = 0.8 / len(series)
    numbered = (WIDTH - 0.6) / len(names) * width >= NUMBER_WIDTH
    whiskers = {"ecolor": INK, "elinewidth": 0.9, "capsize": 2, "capthick": 0.9}
    for number, (system, cells) in enumerate(series.items()):
        at = [names.index(name) + (number - (len(series) - 1) / 2) * width for name in cells]
        values = [100 * accuracy.value for accuracy in cells.values()]
        errors = error_bars(list(cells.values()), report.interval)
        colour = colour_of(list(series), system)
        axes.bar(at, values, 0.92 * width, color=colour, label=shown(system, "figure"), yerr=errors, error_kw=whiskers)
        for x, value, up in zip(at, values, errors[1], strict=True) if numbered else ():
            note(axes, f"{value:.1f}", (x, value + up), (0, 2), SMALL - 1, ha="center", va="bottom")
    cut = sum(not name.startswith(WORST) for name in names)
    if 0 < cut < len(names):
        axes.axvline(cut - 0.5, color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
    axes.set(ylim=(0, 108), yticks=range(0, 101, 20), xlim=(-0.5, len(names) - 0.5))
    _name_categories(axes, names)
    grid_lines(axes)
    if len(series) > 1:
        legend(figure, 4)
    caption(figure, caption_of(report, [line.headline.n for line in report.lines]))
    return figure


def comparison_figure(comparison: Comparison) -> Figure:
    """Draw a line per purifier: clean, every attack, and the worst case with its 95 % interval.

    Raises:
        NothingToDraw: If there are no records yet.
    """
    runs = [run for run in comparison.runs if comparison.pivot[run.label]]
    rows = [comparison.pivot[run.label] for run in runs]
    if not rows:
        raise NothingToDraw("there are no records to draw yet")
    figure = new_figure(1.1 + 0.3 * len(rows))
    axes = figure.subplots()
    decorate(axes, "", "accuracy (%)", "")
    for y, cells in enumerate(rows):
        values = [100 * line.headline.value for line in cells.values()]
        axes.plot([min(values), max(values)], [y, y], color=PALE, linewidth=3, solid_capstyle="round", zorder=1)
        if WORST in cells:
            ends = [100 * end for end in cells[WORST].headline.interval]
            axes.plot(ends, [y, y], color=INK, linewidth=0.9, zorder=3, clip_on=False)
    for name, (shift, style) in _marks(comparison.attacks).items():
        found = [(100 * cells[name].headline.value, y + shift) for y, cells in enumerate(rows) if name in cells]
        axes.plot(*zip(*found, strict=True), linestyle="", clip_on=False, **style)
    axes.set(xlim=(0, 100), ylim=(len(rows) - 0.4, -0.6), yticks=range(len(rows)))
    axes.set_yticklabels([shown(run.label, "figure") + (" *" if run.missing else "") for run in runs])
    axes.tick_params(axis="y", length=0)
    grid_lines(axes, "x")
    legend(figure, 3)
    unfinished = "; * incomplete" if any(run.missing for run in runs) else ""
    caption(figure, caption_of(comparison, [comparison.runs[0].images], intervals=False) + unfinished)
    return figure


def _marks(names: Sequence[str]) -> dict[str, tuple[float, dict[str, Any]]]:
    """How far below its line, and how, each column is marked: equal values of several attacks stay visible."""
    attacks = [name for name in names if name != CLEAN and not name.startswith(WORST)]
    found: dict[str, tuple[float, dict[str, Any]]] = {}
    if CLEAN in names:
        style = {"marker": "o", "markersize": 6, "color": "white", "markeredgecolor": INK, "zorder": 4}
        found[CLEAN] = 0, {"label": CLEAN, **style}
    for number, name in enumerate(attacks):
        style = {"marker": MARKERS[number % len(MARKERS)], "color": CYCLE[number % len(CYCLE)], "markersize": 4}
        found[name] = (
            0.6 * ((number + 0.5) / len(attacks) - 0.5),
            {"label": shown(name, "figure"), **style, "zorder": 5},
        )
    if WORST in names:
        style = {"marker": "|", "markersize": 15, "color": INK, "markeredgewidth": 2, "zorder": 2}
        found[WORST] = 0, {"label": f"{WORST}, 95 % interval", **style}
    return found


def _name_categories(axes: Axes, names: Sequence[str]) -> None:
    names = [shown(name, "figure") for name in names]
    room = (WIDTH - 0.6) / len(names) / 0.062  # characters that fit below a group of bars
    wrapped = [name.replace(" ", "\n") for name in names]
    crowded = max(len(part) for name in wrapped for part in name.split("\n")) > room
    if crowded:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor", fontsize=SMALL)
    else:
        axes.set_xticks(range(len(names)), wrapped, fontsize=NORMAL - 1)
    axes.tick_params(axis="x", length=0)
