"""EoT similarity over many images: the mean of their rows with a 95 % interval (Student's t), and the figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from scipy.special import stdtrit

from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.statistics import LEVEL
from lit_pursamere.report.style import (
    BLUE,
    INK,
    MARKERS,
    SMALL,
    VERMILION,
    caption,
    decorate,
    grid_lines,
    new_figure,
)
from lit_pursamere.store.durable import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["REFERENCES", "mean_interval", "similarity_figure", "similarity_table"]

REFERENCES = {"gradient": "gradient under the known noise", "direction": "way of the attack that knows the noise"}


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of at least two values, and both ends of its 95 % interval by Student's t."""
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * stdev(values) / math.sqrt(len(values))
    return fmean(values), fmean(values) - half, fmean(values) + half


def similarity_table(counts: Sequence[int], rows: Sequence[Row]) -> str:
    """Markdown: mean cosine with its interval by number of draws, one column per reference."""
    body = []
    for i, k in enumerate(counts):
        cells = [mean_interval([row[name][i] for row in rows]) for name in REFERENCES]
        body.append([k, *(f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in cells)])
    return markdown_table(["draws", *(f"cosine with the {text}" for text in REFERENCES.values())], body)


def similarity_figure(counts: Sequence[int], rows: Sequence[Row], title: str) -> Figure:
    """Draw the mean cosine against the number of draws, with 95 % intervals over the images.

    Args:
        counts: Numbers of draws.
        rows: Rows of at least two images.
        title: What was compared.
    """
    figure = new_figure(3.2)
    axes = figure.subplots()
    decorate(axes, shown(title, "figure"), "draws averaged", "mean cosine")
    for (name, text), colour, marker in zip(REFERENCES.items(), (BLUE, VERMILION), MARKERS, strict=False):
        columns = zip(*(row[name] for row in rows), strict=True)
        mean, low, high = zip(*(mean_interval(column) for column in columns), strict=True)
        axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(counts, mean, color=colour, marker=marker, markersize=4, linewidth=1.4, label=f"with the {text}")
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(k) for k in counts])
    axes.minorticks_off()
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    grid_lines(axes)
    axes.legend(frameon=False, fontsize=SMALL, labelcolor=INK, loc="best")
    caption(figure, f"{len(rows)} images; bands: 95 % intervals of the mean over images")
    return figure
