"""EoT similarity over many images: rows that outlast the process, their mean with an interval, and the figure.

FOLDER/images.jsonl         one line per image: index, label, cosines with both references by number of draws
FOLDER/similarity.json      what was compared, the counts, means and 95 % intervals (Student's t), all rows
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from scipy.stats import t

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

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["REFERENCES", "kept_rows", "mean_interval", "similarity_figure", "similarity_table"]

REFERENCES = {"gradient": "gradient under the known noise", "direction": "way of the attack that knows the noise"}
Row = dict[str, object]


def kept_rows(file: Path) -> dict[int, Row]:
    """Rows of a file of JSON lines by index; a last line that was cut short is taken off.

    Raises:
        ValueError: If another line is damaged.
    """
    if not file.is_file():
        return {}
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with open(file, "r+b") as opened:
            opened.truncate(whole)
    try:
        rows = [json.loads(line) for line in content[:whole].splitlines()]
        return {int(row["index"]): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); remove it and run again") from None


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of at least two values, and both ends of its 95 % interval by Student's t."""
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return fmean(values), fmean(values) - half, fmean(values) + half


def similarity_table(counts: Sequence[int], rows: Sequence[Row]) -> str:
    """Markdown: mean cosine with its interval by number of draws, one column per reference."""
    lines = [f"| draws | {' | '.join(f'cosine with the {text}' for text in REFERENCES.values())} |", "| --- " * 3 + "|"]
    for i, k in enumerate(counts):
        cells = [mean_interval([row[name][i] for row in rows]) for name in REFERENCES]  # type: ignore[index]
        lines.append(f"| {k} | {' | '.join(f'{mean:.3f} [{low:.3f}, {high:.3f}]' for mean, low, high in cells)} |")
    return "\n".join(lines) + "\n"


def similarity_figure(counts: Sequence[int], rows: Sequence[Row], title: str) -> Figure:
    """Draw the mean cosine against the number of draws, with 95 % intervals over the images.

    Args:
        counts: Numbers of draws.
        rows: Rows of at least two images.
        title: What was compared.
    """
    figure = new_figure(3.2)
    axes = figure.subplots()
    decorate(axes, title, "draws averaged", "mean cosine")
    for (name, text), colour, marker in zip(REFERENCES.items(), (BLUE, VERMILION), MARKERS, strict=False):
        columns = zip(*(row[name] for row in rows), strict=True)  # type: ignore[misc]
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
