"""Directions over many images: means and shares with 95 % intervals, and the figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lit_pursamere.audit.landscape_table import cell, share
from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.style import (
    BLUE,
    GREY,
    VERMILION,
    caption,
    decorate,
    grid_lines,
    legend,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["directions_figure", "directions_table"]

COLOURS = (VERMILION, BLUE, GREY)  # one table, the set, random signs


def directions_table(summary: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Markdown, and the same as JSON values: loss and mistakes at eps along the directions, over the tables of the set.

    The spread is the standard deviation of an image's loss over the tables, its mean over images. `more` is paired: the
    gain under all tables of the step made for all, less the gain under the first of the one made for the first. Of the
    images that the latter breaks there, `transfer` says how often they are wrong under other tables.
    """
    rows = summary["rows"]
    spread, wrong = (np.array([row[name] for row in rows]) for name in ("spread", "wrong"))
    body = [
        [name, cell(spread[:, i, 0]), cell(spread[:, i].mean(1)), cell(spread[:, i].std(1, ddof=1)),
         share(wrong[:, i, 0]), share(wrong[:, i].mean(1))]
        for i, name in enumerate(("none", *summary["directions"][:2]))
    ]  # fmt: skip
    head = ["step of eps made for", "loss, first table", "loss, all tables", "spread over tables",
            "wrong (%), first table", "wrong (%), all tables"]  # fmt: skip
    broken = wrong[:, 1, 0] > wrong[:, 0, 0]
    transfer, cosine = share(wrong[broken, 1, 1:].mean(1)), cell(np.array([row["cosine"] for row in rows]))
    more = cell((spread[:, 2] - spread[:, 0]).mean(1) - (spread[:, 1, 0] - spread[:, 0, 0]))
    means = {"table": [head, *body], "mean_cosine": cosine, "more": more, "broken": int(broken.sum()),
             "transfer": transfer}  # fmt: skip
    text = (
        f"{len(rows)} images\n\n{markdown_table(head, body)}\nCosine of the gradient under the first table with the "
        f"mean gradient under all: {cosine}. The step made for all tables raises the loss under all by {more} more "
        f"than that made for the first does under the first. Of the {broken.sum()} images that the latter breaks "
        f"there, {transfer or 'none'} % are wrong under another table."
    )
    return text, means


def directions_figure(summary: dict[str, Any], title: str) -> Figure:
    """Draw the mean loss along the directions, and on which share of the tables images are misclassified.

    Args:
        summary: Directions, noises, lengths and rows.
        title: What was attacked.
    """
    rows, lengths, noises = summary["rows"], summary["lengths"], summary["noises"]
    loss, wrong = (np.array([row[name] for row in rows]) for name in ("loss", "wrong"))
    figure = new_figure(3.0)
    left, right = figure.subplots(1, 2)
    decorate(left, "Loss along a step", "length in eps", "mean loss")
    for d, (name, colour) in enumerate(zip(summary["directions"], COLOURS, strict=True)):
        for n, dashes in enumerate(("-", ":")):
            label = f"made for {name}" if d < 2 else name
            left.plot(lengths, loss[:, n, d].mean(0), color=colour, linestyle=dashes, linewidth=1.5,
                      label=None if n else label)  # fmt: skip
    decorate(right, "Images that so many tables fool", "at least this share of tables, at eps", "share of images")
    heights = 1 - np.arange(len(rows)) / len(rows)
    for d, colour in enumerate(COLOURS[:2]):
        right.step(np.sort(wrong[:, 1 + d].mean(1)), heights, where="pre", color=colour, linewidth=1.5)
    right.set(xlim=(0, 1), ylim=(0, 1.02))
    for axes in (left, right):
        grid_lines(axes)
    legend(figure, 3)
    kinds = f"solid: under the first table, dotted: under one of {noises[1]}"
    caption(figure, f"{shown(title, 'figure')}; {len(rows)} images; {kinds}")
    return figure
