"""Plots of evaluations: accuracies with their worst case, against the budget, against steps, and survival over steps.

Every function returns a matplotlib Figure that belongs to nobody, see `style`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lit_pursamere.names import shown
from lit_pursamere.report.curves import Survival, Sweep, survivals, sweeps
from lit_pursamere.report.notes import INTERVAL_NAMES
from lit_pursamere.report.report import WORST, Line, Report
from lit_pursamere.report.runs import eps_text
from lit_pursamere.report.statistics import INTERVALS, Accuracy
from lit_pursamere.report.style import (
    CYCLE,
    DASHES,
    GREY,
    GREYS,
    INK,
    MARKERS,
    NORMAL,
    SMALL,
    WIDTH,
    caption,
    decorate,
    grid_lines,
    new_figure,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["accuracy_figure", "roc_figure", "save_plots", "survival_figure", "sweep_figure"]

NORMS = {"linf": "$\\ell_\\infty$", "l2": "$\\ell_2$", "l1": "$\\ell_1$"}
NUMBER_WIDTH = 0.2  # inches; over narrower bars the numbers would touch


def accuracy_figure(report: Report) -> Figure:
    """Draw bars: clean accuracy, every attack and the worst cases, for every system, with 95 % intervals."""
    series: dict[str, dict[str, Accuracy]] = {}
    for line in report.lines:
        series.setdefault(_system_name(report, line), {})[line.attack] = line.headline
    names = list(dict.fromkeys(line.attack for line in report.lines))
    names.sort(key=lambda name: (name.startswith(WORST), name == WORST))  # stable: those of the first run lead

    figure = new_figure(3.2)
    axes = figure.subplots()
    decorate(axes, "", "", "accuracy (%)")
    width = 0.8 / len(series)
    numbered = (WIDTH - 0.6) / len(names) * width >= NUMBER_WIDTH
    for number, (system, cells) in enumerate(series.items()):
        at = [names.index(name) + (number - (len(series) - 1) / 2) * width for name in cells]
        _bars(axes, at, list(cells.values()), 0.92 * width, _colour(list(series), system), system, report, numbered)
    cut = sum(not name.startswith(WORST) for name in names)
    if 0 < cut < len(names):
        axes.axvline(cut - 0.5, color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
    axes.set(ylim=(0, 108), yticks=range(0, 101, 20), xlim=(-0.5, len(names) - 0.5))
    _name_categories(axes, names)
    grid_lines(axes)
    if len(series) > 1:
        _legend(figure, 4)
    caption(figure, _caption(report, [line.headline.n for line in report.lines]))
    return figure


def sweep_figure(report: Report, parameter: Literal["eps", "steps"]) -> Figure:
    """Draw accuracy against the budget or the number of steps, for attacks that differ in nothing else.

    Raises:
        ValueError: If there are no two such attacks.
    """
    found = sweeps(report, parameter)
    if not found:
        raise ValueError(
            f"no two attacks differ in {parameter} alone; evaluate one at several, in one run or in several runs"
        )
    panels = list(dict.fromkeys(sweep.panel for sweep in found))
    systems = list(dict.fromkeys(sweep.system for sweep in found))
    attacks = list(dict.fromkeys(sweep.attack for sweep in found))
    names = [(sweep.panel, f"{sweep.system}, {sweep.attack}") for sweep in found]

    figure = new_figure(3.2)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        norm, _, budget = shown(panel, "figure").partition(" ")
        symbol = NORMS.get(norm, norm)
        if parameter == "eps":
            decorate(axes, "", f"budget $\\varepsilon$ in {symbol}, pixels in [0, 1]", "accuracy (%)")
        else:
            decorate(axes, f"{symbol} {budget}".strip(), "attack steps", "accuracy (%)")
        for sweep, name in zip(found, names, strict=True):
            if sweep.panel == panel:
                label = f"{name[1]} ({sweep.run})" if names.count(name) > 1 else name[1]
                marker = MARKERS[attacks.index(sweep.attack) % len(MARKERS)]
                dashes = DASHES[attacks.index(sweep.attack) % len(DASHES)]
                _sweep(axes, sweep, report.interval, _colour(systems, sweep.system), marker, dashes, label)
        _value_ticks(axes, [x for sweep in found if sweep.panel == panel for x, _ in sweep.points], parameter)
        axes.set(ylim=(0, 102), yticks=range(0, 101, 20))
        grid_lines(axes, "both")
        axes.label_outer()
    _legend(figure, 2)
    caption(figure, _caption(report, [accuracy.n for sweep in found for _, accuracy in sweep.points]))
    return figure


def survival_figure(report: Report) -> Figure:
    """Draw the share of images that an attack has not fooled after k steps, by the view that it differentiates.

    A mark at the end of a curve is the verdict of the defence itself. Where it lies above, the view is easier to fool
    than the defence; the difference is what the attack loses on the way.

    Raises:
        ValueError: If no attack noted when it first succeeded.
    """
    panels: list[tuple[str, list[Survival]]] = []
    for run in report.runs:
        for system in run.systems:
            if found := survivals(run, system, report.lines):
                title = f"{system} ({run.label})" if report.several else system
                panels.append((shown(title, "figure"), found))
    if not panels:
        raise ValueError("no record says after which step its image was first fooled (first_success); nothing to draw")
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
        axes.xaxis.get_major_locator().set_params(integer=True)
        grid_lines(axes)
    _legend(figure, 4)
    text = _caption(report, [curve.n for _, found in panels for curve in found], intervals=False)
    caption(figure, f"Curves: by the view that the attack differentiates. Marks: the defence's verdict.\n{text}")
    return figure


def roc_figure(report: Report) -> Figure:
    """Draw the ROC of every detector, one curve per attack: attacked images rejected against clean ones rejected.

    Raises:
        ValueError: If there was no detector.
    """
    lines = [line for line in report.lines if line.detection and line.detection.curve]
    if not lines:
        raise ValueError("no records hold the statistic of a detector; nothing to draw")
    figure = new_figure(3.6)
    axes = figure.subplots()
    decorate(axes, "", "clean images rejected (%)", "attacked images rejected (%)")
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=0.7, linestyle=(0, (2, 3)))
    for number, line in enumerate(lines):
        dashes = DASHES[number // len(CYCLE) % len(DASHES)]
        points = [[100 * value for value in column] for column in zip(*line.detection.curve, strict=True)]
        name = f"{_system_name(report, line)}, {line.attack}: AUC {line.detection.auc:.3f}"
        colour = CYCLE[number % len(CYCLE)]
        axes.plot(*points, color=colour, linewidth=1.4, linestyle=(0, dashes) if dashes else "-", label=name)
    axes.set(xlim=(0, 100), ylim=(0, 102), aspect="equal")
    grid_lines(axes, "both")
    _legend(figure, 2)
    caption(figure, _caption(report, [line.headline.n for line in lines], intervals=False))
    return figure


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


def _legend(figure: Figure, columns: int) -> None:
    """Name every label of the figure once, above the axes."""
    entries: dict[str, object] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(shown(label, "figure"), handle)
    fitting = int(WIDTH / (0.5 + 0.075 * max(map(len, entries))))  # the symbol and its letters, in inches
    style = {"ncols": max(1, min(columns, fitting)), "frameon": False, "fontsize": SMALL + 0.5, "labelcolor": INK}
    figure.legend(entries.values(), entries, loc="outside upper left", **style)


def _system_name(report: Report, line: Line) -> str:
    return f"{line.system} ({line.run.label})" if report.several else line.system


def _colour(systems: Sequence[str], system: str) -> str:
    """Greys for the undefended, a colour of the cycle for every other system."""
    bare = system.startswith("undefended")
    alike = [name for name in systems if name.startswith("undefended") == bare]
    colours = GREYS if bare else CYCLE
    return colours[alike.index(system) % len(colours)]


def _errors(accuracies: Sequence[Accuracy], interval: str) -> list[list[float]]:
    """Distances in % from the value down and up to the ends of its interval, as matplotlib wants them."""
    ends = [INTERVALS[interval](accuracy.correct, accuracy.n) for accuracy in accuracies]
    below = [100 * max(0.0, a.value - low) for a, (low, _) in zip(accuracies, ends, strict=True)]
    above = [100 * max(0.0, high - a.value) for a, (_, high) in zip(accuracies, ends, strict=True)]
    return [below, above]


def _bars(
    axes: Axes,
    at: Sequence[float],
    accuracies: Sequence[Accuracy],
    width: float,
    colour: str,
    label: str,
    report: Report,
    numbered: bool,
) -> None:
    values = [100 * accuracy.value for accuracy in accuracies]
    errors = _errors(accuracies, report.interval)
    style = {"ecolor": INK, "elinewidth": 0.9, "capsize": 2, "capthick": 0.9}
    axes.bar(at, values, width, color=colour, label=label, yerr=errors, error_kw=style)
    if numbered:
        for x, value, up in zip(at, values, errors[1], strict=True):
            spot = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
            axes.annotate(f"{value:.1f}", (x, value + up), **spot, fontsize=SMALL - 1, color=INK)


def _name_categories(axes: Axes, names: Sequence[str]) -> None:
    room = (WIDTH - 0.6) / len(names) / 0.062  # characters that fit below a group of bars
    names = [shown(name, "figure") for name in names]
    wrapped = [name.replace(" ", "\n") for name in names]
    crowded = max(len(part) for name in wrapped for part in name.split("\n")) > room
    if crowded:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor", fontsize=SMALL)
    else:
        axes.set_xticks(range(len(names)), wrapped, fontsize=NORMAL - 1)
    axes.tick_params(axis="x", length=0)


def _sweep(
    axes: Axes, sweep: Sweep, interval: str, colour: str, marker: str, dashes: tuple[float, ...], label: str
) -> None:
    values, accuracies = zip(*sweep.points, strict=True)
    axes.errorbar(
        values, [100 * accuracy.value for accuracy in accuracies], yerr=_errors(accuracies, interval), color=colour,
        marker=marker, markersize=4, linewidth=1.4, linestyle=(0, dashes) if dashes else "-", elinewidth=0.8,
        capsize=2, label=label,
    )  # fmt: skip


def _value_ticks(axes: Axes, values: Sequence[float], parameter: str) -> None:
    ticks = sorted(set(values))
    if parameter == "steps" and ticks[-1] > 8 * ticks[1]:
        axes.set_xscale("symlog", base=2, linthresh=ticks[1])  # from the first step count on, a doubling is a length
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    elif parameter == "steps":
        axes.xaxis.get_major_locator().set_params(integer=True)
    elif len(ticks) <= 8 and min(b - a for a, b in pairwise(ticks)) > 0.08 * ticks[-1]:
        axes.set_xticks(ticks, [eps_text(tick) if tick else "0" for tick in ticks])


def _survival(axes: Axes, curve: Survival, colour: str, number: int) -> None:
    dashes = DASHES[number % len(DASHES)]
    line = {"color": colour, "linewidth": 1.4, "linestyle": (0, dashes) if dashes else "-"}
    mark = {"color": colour, "marker": MARKERS[number % len(MARKERS)], "markersize": 6, "markeredgecolor": "white"}
    shares = [100 * share for share in curve.shares]
    axes.plot(range(len(shares)), shares, drawstyle="steps-post", **line)
    axes.plot([], [], label=curve.attack, **(line | mark))  # the legend's: curve and mark together
    if curve.verdict is not None:
        axes.plot([len(shares) - 1], [100 * curve.verdict], **mark, linestyle="", clip_on=False, zorder=3)


def _caption(report: Report, sizes: Sequence[int], intervals: bool = True) -> str:
    places = [shown(data, "figure") for data in dict.fromkeys(run.data for run in report.runs if run.data)]
    n = f"n = {min(sizes)}" if min(sizes) == max(sizes) else f"n = {min(sizes)} to {max(sizes)}"
    success = ", ".join(dict.fromkeys(run.success for run in report.runs))
    parts = [*places, n, f"success: {success}"]
    return "; ".join(parts + ([f"whiskers: 95 % {INTERVAL_NAMES[report.interval]} intervals"] if intervals else []))
