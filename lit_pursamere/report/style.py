"""How figures look: one palette, one width, quiet axes.

A figure belongs to nobody: no pyplot, no display, no global state. matplotlib itself is imported at the first drawing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, which stays distinct for colour-blind readers; RIGHT and WRONG come with a mark as well.
BLUE, VERMILION, GREEN, ORANGE, SKY, PINK = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7"
PURPLE, GREY, PALE, INK = "#AA4488", "#8A8A8A", "#E6E6E6", "#333333"
RIGHT, WRONG = "#00795A", "#C8102E"
CYCLE = (BLUE, VERMILION, GREEN, PINK, ORANGE, SKY, INK)
GREYS = (GREY, "#BDBDBD", "#5C5C5C")
MARKERS, DASHES = "osD^v<>p", ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (3, 2), (8, 3), (1, 1))
SMALL, NORMAL = 7.5, 9  # font sizes in points
WIDTH, DPI = 6.0, 150  # inches and dots per inch: 900 pixels, the width of a README


def new_figure(height: float) -> Figure:
    """Make an empty figure, WIDTH inches wide and `height` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")


def decorate(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Give axes their titles, and no more lines than they need."""
    axes.set_title(title, fontsize=NORMAL + 0.5, color=INK, loc="left", pad=8)
    axes.set_xlabel(xlabel, fontsize=NORMAL, color=INK)
    axes.set_ylabel(ylabel, fontsize=NORMAL, color=INK)
    axes.tick_params(which="both", labelsize=SMALL, color=GREY, labelcolor=INK, width=0.7)
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=GREY, linewidth=0.7)


def grid_lines(axes: Axes, axis: Literal["both", "x", "y"] = "y") -> None:
    """Draw pale lines behind the data."""
    axes.grid(axis=axis, which="major", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def caption(figure: Figure, text: str) -> None:
    """Write what a reader must know below the axes."""
    figure.supxlabel(text, fontsize=SMALL, color=GREY)


def legend(figure: Figure, columns: int) -> None:
    """Name every label of the figure once, above the axes, in at most so many columns as fit."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    fitting = next(count for count in range(min(columns, len(entries)), 0, -1) if count == 1 or _fits(entries, count))
    style: dict[str, Any] = {"ncols": fitting, "frameon": False, "fontsize": SMALL + 0.5, "labelcolor": INK}
    figure.legend(list(entries.values()), list(entries), loc="outside upper left", **style)


def _fits(labels: Iterable[str], columns: int) -> bool:
    """Whether labels fit side by side: a symbol and the letters of the longest one in every column, in inches."""
    widths = [0.5 + 0.075 * len(label) for label in labels]
    return sum(column.max() for column in np.array_split(widths, columns)) <= WIDTH


def note(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    size: float = SMALL,
    colour: str = INK,
    units: str | tuple[str, str] = "data",
    **alignment: Any,
) -> None:
    axes.annotate(
        text, at, offset, xycoords=units, textcoords="offset points", fontsize=size, color=colour, **alignment
    )
