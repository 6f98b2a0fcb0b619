"""What figures of reports share: the colour of a system, error bars, and the words below the axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lit_pursamere.names import shown
from lit_pursamere.report.notes import INTERVAL_NAMES
from lit_pursamere.report.report import Report
from lit_pursamere.report.statistics import INTERVALS, Accuracy
from lit_pursamere.report.style import CYCLE, GREYS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["caption_of", "colour_of", "draw_curve", "error_bars"]


def caption_of(report: Report, sizes: Sequence[int | None], intervals: bool = True) -> str:
    """Which images, how many, what counts as success, and what the whiskers are if there are any."""
    places = [shown(data, "figure") for data in dict.fromkeys(run.data for run in report.runs if run.data)]
    known = sorted({size for size in sizes if size is not None})
    n = [f"n = {' to '.join(map(str, dict.fromkeys((known[0], known[-1]))))}"] if known else []
    success = ", ".join(dict.fromkeys(run.success for run in report.runs))
    parts = [*places, *n, f"success: {success}"]
    return "; ".join(parts + ([f"whiskers: 95 % {INTERVAL_NAMES[report.interval]} intervals"] if intervals else []))


def colour_of(systems: Sequence[str], system: str) -> str:
    """Greys for the undefended, a colour of the cycle for every other system."""
    bare = system.startswith("undefended")
    alike = [name for name in systems if name.startswith("undefended") == bare]
    colours = GREYS if bare else CYCLE
    return colours[alike.index(system) % len(colours)]


def error_bars(accuracies: Sequence[Accuracy], interval: str) -> list[list[float]]:
    """Distances in % from the value down and up to the ends of its interval, as matplotlib wants them."""
    ends = [INTERVALS[interval](accuracy.correct, accuracy.n) for accuracy in accuracies]
    below = [100 * max(0.0, a.value - low) for a, (low, _) in zip(accuracies, ends, strict=True)]
    above = [100 * max(0.0, high - a.value) for a, (_, high) in zip(accuracies, ends, strict=True)]
    return [below, above]


def draw_curve(
    axes: Axes,
    points: Sequence[tuple[float, Accuracy]],
    interval: str,
    colour: str,
    marker: str,
    dashes: tuple[float, ...],
    label: str,
    shift: float = 0.0,
) -> None:
    """Draw accuracies over a number, with their intervals, `shift` points to the right, so that none hides others."""
    from matplotlib.transforms import ScaledTranslation

    aside = ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    values, accuracies = zip(*points, strict=True)
    axes.errorbar(
        values, [100 * accuracy.value for accuracy in accuracies], yerr=error_bars(accuracies, interval), color=colour,
        marker=marker, markersize=4, linewidth=1.4, linestyle=(0, dashes) if dashes else "-", elinewidth=0.8,
        capsize=2, label=label, transform=axes.transData + aside,
    )  # fmt: skip
