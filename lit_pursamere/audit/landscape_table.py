"""A landscape over many images: means and shares with 95 % intervals, and the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lit_pursamere.audit.similarity_table import mean_interval
from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.style import (
    BLUE,
    GREEN,
    INK,
    MARKERS,
    SMALL,
    VERMILION,
    caption,
    decorate,
    grid_lines,
    legend,
    new_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["landscape_figure", "landscape_table", "trajectories_figure"]

COLOURS = (BLUE, GREEN, VERMILION)  # of attackers, the last one knows the noise
PICTURED = 2  # images whose ways are drawn


def landscape_table(summary: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Markdown, and the same as JSON values: who attacked, where he ended, and whether his images carry over.

    Cells are means over images with intervals. Of the images that are right at first and that the attack with known
    noise breaks, `transfer` says how often they are wrong under fresh noise.
    """
    noises, rows = summary["noises"], summary["rows"]
    loss, wrong, cosine = (np.array([row[name] for row in rows]) for name in ("loss", "wrong", "cosine"))
    body: list[list[str]] = [
        ["nobody", "", *(cell(loss[:, n, 0, 0]) for n in range(len(noises))),
         *(share(wrong[:, n, 0]) for n in range(len(noises)))]
    ]  # fmt: skip
    for a, name in enumerate(summary["attackers"]):
        cells = [cell(loss[:, n, a, -1]) for n in range(len(noises))]
        cells += [share(wrong[:, n, 1 + a]) for n in range(len(noises))]
        body.append([name, cell(cosine[:, a]), *cells])
    head = ["attacker", "cosine with the way under known noise", *(f"loss, {name}" for name in noises),
            *(f"wrong (%), {name}" for name in noises)]  # fmt: skip
    means: dict[str, Any] = {"table": [head, *body]}
    text = f"{len(rows)} images\n\n{markdown_table(head, body)}"
    if len(noises) > 1:
        broken = (wrong[:, 0, 0] == 0) & (wrong[:, 0, -1] == 1)
        transfer = share(wrong[broken, 1, -1])
        means |= {"broken": int(broken.sum()), "transfer": transfer}
        text += (
            f"\nOf the {broken.sum()} images that the attack with {noises[0]} breaks there, {transfer or 'none'} % are "
            f"wrong under {noises[1]}."
        )
    return text, means


def cell(values: np.ndarray) -> str:
    """Mean of at least two values and its 95 % interval (Student's t)."""
    return "{:.2f} [{:.2f}, {:.2f}]".format(*mean_interval(values.tolist()))


def share(values: np.ndarray) -> str:
    """Mean of values in [0, 1] in %, and its 95 % interval (Wilson); nothing of none."""
    return Accuracy(float(values.sum()), len(values)).text() if len(values) else ""


def landscape_figure(summary: dict[str, Any], title: str) -> Figure:
    """Draw the mean loss on the plane, for every noise, and the mean ways of the attacks on it.

    Args:
        summary: Attackers, noises, grid and rows.
        title: What was attacked.
    """
    rows, grid, attackers = summary["rows"], summary["grid"], summary["attackers"]
    maps = np.mean([row["map"] for row in rows], 0)
    ways = np.mean([row["plane"] for row in rows], 0)
    figure = new_figure(3.5)
    panels = figure.subplots(1, len(summary["noises"]), sharey=True, squeeze=False)[0]
    levels = np.linspace(maps.min(), max(maps.max(), maps.min() + 1e-9), 13)
    for axes, name, values in zip(panels, summary["noises"], maps, strict=True):
        decorate(axes, f"mean loss, {name}", "along the attack with known noise", "")
        filled = axes.contourf(grid, grid, values.T, levels, cmap="cividis")
        draw_ways(axes, ways, attackers, "white")
        axes.set_aspect("equal")
    panels[0].set_ylabel("across")
    bar = figure.colorbar(filled, ax=list(panels), shrink=0.8, format="%.2g")
    bar.ax.tick_params(labelsize=SMALL, color=INK, labelcolor=INK)
    legend(figure, 3)
    caption(figure, f"{shown(title, 'figure')}; {len(rows)} images; (1, 0): end of the attack with known noise")
    return figure


def trajectories_figure(summary: dict[str, Any], title: str) -> Figure:
    """Draw the ways of two images, each on a plane of its own, and the mean loss along the ways of all.

    Args:
        summary: Attackers, noises and rows.
        title: What was attacked.
    """
    rows, attackers, noises = summary["rows"], summary["attackers"], summary["noises"]
    pictured = rows[:PICTURED]
    figure = new_figure(2.9)
    *panels, along = figure.subplots(1, len(pictured) + 1)
    for axes, row in zip(panels, pictured, strict=True):
        decorate(axes, f"image {row['index']}", "", "")
        draw_ways(axes, np.array(row["flat"]), attackers, INK)
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
    decorate(along, "loss along the way", "step", "")
    loss = np.array([row["loss"] for row in rows])
    for n, dashes in enumerate(("-", ":")[: len(noises)]):
        for a, colour in enumerate(colours(attackers)):
            mean, low, high = np.array([mean_interval(column) for column in loss[:, n, a].T.tolist()]).T
            along.plot(mean, color=colour, linewidth=1.3, linestyle=dashes)
            along.fill_between(range(len(mean)), low, high, color=colour, alpha=0.12, linewidth=0)
    grid_lines(along)
    legend(figure, 3)
    kinds = ", ".join(f"{line}: under {name}" for line, name in zip(("solid", "dotted"), noises, strict=False))
    caption(figure, f"{shown(title, 'figure')}; loss: {len(rows)} images, {kinds}, bands: 95 % intervals")
    return figure


def draw_ways(axes: Axes, ways: np.ndarray, attackers: Sequence[str], edge: str) -> None:
    """Draw ways (A, T, 2) as lines whose ends are marked."""
    for way, name, colour, marker in zip(ways, attackers, colours(attackers), MARKERS, strict=False):
        axes.plot(*way.T, color=colour, linewidth=1.2, marker=".", markersize=3)
        style: dict[str, Any] = {"marker": marker, "markersize": 6, "markeredgecolor": edge, "markeredgewidth": 0.6}
        axes.plot(*way[-1:].T, color=colour, linestyle="", label=f"attack, {name}", zorder=3, **style)


def colours(attackers: Sequence[str]) -> Sequence[str]:
    """A colour for every attacker, the last one's always the same."""
    return (*COLOURS[: len(attackers) - 1], COLOURS[-1])
