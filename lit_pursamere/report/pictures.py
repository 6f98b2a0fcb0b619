"""What a purifier does to images, and how its search went.

Every function returns a matplotlib Figure that belongs to nobody, see `style`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_pursamere.names import shown
from lit_pursamere.report.style import (
    BLUE,
    GREY,
    INK,
    NORMAL,
    PURPLE,
    RIGHT,
    SMALL,
    VERMILION,
    WRONG,
    caption,
    decorate,
    grid_lines,
    new_figure,
    note,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lit_pursamere.purifiers.pursamere import Trajectory

__all__ = ["draw_picture", "picture_grid", "purified_grid", "trajectory_figure"]

MAX_ROWS, COLUMNS = 8, 10


def picture_grid(
    clean: Tensor,
    attacked: Tensor,
    purified: Tensor,
    labels: Tensor,
    predictions: Mapping[str, Tensor],
    class_names: Sequence[str],
    epsilon_note: str | None = None,
) -> Figure:
    """Show images before and after an attack and after purification, with ten times what each step changed.

    A title reads label → prediction, green with a tick if they agree and red with a cross if not. Differences are
    drawn as 0.5 + 10 (b - a) / 2, clamped: mid-grey means no change, and a change of 0.1 reaches black or white.

    Args:
        clean: Images (N, C, H, W) in [0, 1], C = 1 or 3; the first 8 are shown.
        attacked: The same after the attack.
        purified: The attacked ones after purification.
        labels: True class numbers (N,).
        predictions: Predicted class numbers (N,) for any of `clean`, `attacked`, `purified`.
        class_names: Names of the classes; one that has none is told by its number.
        epsilon_note: Budget of the attack, shown under the heading of the attacked column.

    Raises:
        ValueError: If shapes differ or a prediction belongs to no column.
    """
    images = {"clean": clean, "attacked": attacked, "purified": purified}
    if len({picture.shape for picture in images.values()}) > 1 or clean.ndim != 4 or clean.shape[1] not in (1, 3):
        shapes = [tuple(picture.shape) for picture in images.values()]
        raise ValueError(f"picture_grid needs three equal batches (N, 1 or 3, H, W); got {shapes}")
    if not set(predictions) <= set(images):
        raise ValueError(f"predictions must be for {', '.join(images)}; got {', '.join(predictions)}")
    columns = [picture[:MAX_ROWS].detach().float().cpu() for picture in images.values()]
    columns += [_tenfold(columns[0], columns[1]), _tenfold(columns[1], columns[2])]
    headings = [*images, "10 $\\times$ change", "10 $\\times$ change"]
    notes = ["", epsilon_note or "", "", "attacked $-$ clean", "purified $-$ attacked"]

    rows = len(columns[0])
    figure = new_figure(0.55 + 1.3 * rows)
    layout: Any = figure.get_layout_engine()
    layout.set(h_pad=0.07)
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, pictures in enumerate(columns):
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            draw_picture(axes, picture)
        for text, height, size, colour in ((headings[column], 29, NORMAL, INK), (notes[column], 18, SMALL, GREY)):
            note(grid[0, column], text, (0.5, 1), (0, height), size, colour, "axes fraction", ha="center")
    class_names = [shown(name, "figure") for name in class_names]
    longest = max(map(len, class_names), default=1)
    size = SMALL * min(1, 18 / (2 * longest + 5))  # long names shrink to the width of a column
    for name, predicted in predictions.items():
        for axes, label, guess in zip(grid[:, list(images).index(name)], labels, predicted, strict=False):
            _verdict(axes, int(label), int(guess), class_names, size)
    return figure


def purified_grid(purified: Tensor, indices: Sequence[int], originals: Tensor | None = None) -> Figure:
    """Show purified images, ten to a row; above each its original and below it the change, where originals are given.

    A change is drawn as 0.5 + (purified - original) / (2 m) with the largest change m among them all: mid-grey means
    none.

    Args:
        purified: Images (N, C, H, W) in [0, 1], C = 1 or 3.
        indices: Their numbers, (N,).
        originals: What they were before.
    """
    bands = {"purified": purified}
    if originals is not None:
        change = purified - originals
        most = float(change.abs().max())
        scaled = 0.5 + change / (2 * max(most, 1e-12))
        bands = {"original": originals, "purified": purified, "change": scaled}
    blocks = -(-len(purified) // COLUMNS)
    figure = new_figure(0.4 + blocks * (0.25 + 0.6 * len(bands)))
    if originals is not None:
        caption(figure, f"change: mid-grey is none, black and white are {most:.2g} less and more")
    grid = figure.subplots(blocks * len(bands), COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for position, index in enumerate(indices):
        block, column = divmod(position, COLUMNS)
        for row, (label, images) in enumerate(bands.items(), start=block * len(bands)):
            axes = grid[row, column]
            axes.axis("on")
            draw_picture(axes, images[position].detach().float().cpu())
            if column == 0:
                axes.set_ylabel(label, fontsize=SMALL, color=INK)
        grid[block * len(bands), column].set_title(str(index), fontsize=SMALL, color=GREY, pad=3)
    return figure


def trajectory_figure(trajectory: Trajectory) -> Figure:
    """Draw a PurSAMERE run level by level: mean over the images and the band that holds the middle 80 % of them.

    Args:
        trajectory: What `PurSAMERE.trajectory` reports: L levels, B images.
    """
    figure = new_figure(4.8)
    panels = figure.subplots(3, 1, sharex=True)
    rows = {
        "reconstruction error\n$R(x;\\sigma)$": (trajectory.error, VERMILION),
        "distance from input\n$\\|x - x_{\\mathrm{adv}}\\|_2$": (trajectory.distance, BLUE),
        "ascent norm\n$\\|x_{\\mathrm{max}} - x\\|_2$": (trajectory.ascent_norm, PURPLE),
    }
    for axes, (label, (values, colour)) in zip(panels, rows.items(), strict=True):
        decorate(axes, "", "", label)
        _band(axes, values.detach().float().cpu(), colour)
    if (trajectory.error > 0).all() and trajectory.error.max() > 100 * trajectory.error.min():
        panels[0].set_yscale("log")
    levels = len(trajectory.sigmas)
    ticks = sorted({round(float(tick)) for tick in torch.linspace(0, levels - 1, min(levels, 7))})
    panels[-1].set_xticks(ticks, [f"{trajectory.sigmas[tick]:.2g}" for tick in ticks])
    panels[-1].set_xlabel(f"noise level $\\sigma$, {levels} in all, first to last", fontsize=NORMAL, color=INK)
    images = trajectory.error.shape[1]
    crowd = "1 image" if images == 1 else f"mean and 10-90 % band of {images} images"
    panels[0].set_title(crowd, fontsize=SMALL + 0.5, color=GREY, loc="right")
    figure.align_ylabels()
    return figure


def _tenfold(before: Tensor, after: Tensor) -> Tensor:
    return (0.5 + 10 * (after - before) / 2).clamp(0, 1)


def draw_picture(axes: Axes, picture: Tensor) -> None:
    """Draw an image (C, H, W) in [0, 1] on the CPU, C = 1 or 3, in a thin frame."""
    shown = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
    axes.imshow(shown.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#CCCCCC", linewidth=0.5)


def _verdict(axes: Axes, label: int, guess: int, class_names: Sequence[str], size: float) -> None:
    right = label == guess
    called, taken_for = (class_names[k] if k < len(class_names) else str(k) for k in (label, guess))
    text = f"{called} → {taken_for} {'✓' if right else '✗'}"
    axes.set_title(text, fontsize=size, color=RIGHT if right else WRONG, pad=3)


def _band(axes: Axes, values: Tensor, colour: str) -> None:
    levels = range(len(values))
    low, high = torch.quantile(values, torch.tensor([0.1, 0.9]), dim=1).numpy()
    axes.fill_between(levels, low, high, color=colour, alpha=0.18, linewidth=0, label="10-90 %")
    marker = "o" if len(values) <= 30 else None
    axes.plot(levels, values.mean(1).numpy(), color=colour, linewidth=1.6, marker=marker, markersize=3, label="mean")
    grid_lines(axes)
