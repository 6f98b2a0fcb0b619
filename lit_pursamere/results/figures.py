"""Pictures: the theory redrawn, what a purifier does to images, and how its search went.

References: PurSAMERE (Hoang et al., 2026), Figure 1 and Proposition 1; COUP (Zhang et al., 2024), Figure 3. The numbers
come from `theory` and `coup_toy`.

Every function returns a matplotlib Figure that belongs to nobody: no pyplot, no display, no global state. So it can be
saved, shown in a notebook, or handed to TensorBoard's `add_figure`. matplotlib itself is imported at the first drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_pursamere.results import coup_toy, theory
from lit_pursamere.results.style import (
    BLUE,
    CYCLE,
    GREY,
    INK,
    MARKERS,
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
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lit_pursamere.purifiers.pursamere import Trajectory

__all__ = [
    "FIGURES",
    "coup_toy_figure",
    "picture_grid",
    "proposition1_figure",
    "purified_grid",
    "reconstruction_error_figure",
    "trajectory_figure",
]

MAX_ROWS, COLUMNS = 8, 10


def reconstruction_error_figure(sigma: float = 0.1) -> Figure:
    """Draw Figure 1 of the paper: a truncated mixture's density, and the reconstruction error beside it.

    Args:
        sigma: Noise level in pixel units (paper: 0.1, a standard deviation).
    """
    x = torch.linspace(0, 1, 201, dtype=torch.float64)
    density = theory.truncated_mixture_density(x)
    error = theory.exact_reconstruction_error(theory.truncated_mixture_score(), x.reshape(-1, 1, 1, 1), sigma)
    modes, peaks = theory.local_minima(x, -density)
    minima, depths = theory.local_minima(x, error)

    figure = new_figure(2.75)
    left, right = figure.subplots(1, 2)
    decorate(left, "Density of the data", "$x$", "$p_X(x)$")
    decorate(right, "Expected reconstruction error", "$x$", f"$R(x;\\,{sigma:g})$")
    _curve(left, x, density, BLUE, "density")
    _mark(left, modes, -peaks, BLUE, "maxima", above=True)
    _curve(right, x, error, VERMILION, "reconstruction error")
    _mark(right, minima, depths, VERMILION, "minima", above=False)
    at_modes = [float(error[(x - mode).abs().argmin()]) for mode in modes]
    right.vlines(modes.tolist(), at_modes, 1.22 * float(error.max()), color=BLUE, linewidth=0.9, linestyle=(0, (1, 2)))
    _note(
        right, "maxima of $p_X$", (float(modes[0]), 1), (4, -4), colour=BLUE, units=("data", "axes fraction"), va="top"
    )
    for axes, top in ((left, float(density.max())), (right, float(error.max()))):
        axes.set(xlim=(0, 1), ylim=(0, 1.22 * top), xticks=(0, 0.25, 0.5, 0.75, 1))
        axes.set_xticklabels(["0", "0.25", "0.5", "0.75", "1"])
    return figure


def proposition1_figure() -> Figure:
    """Draw the remainder of Proposition 1 against the noise level, its largest value for x in [0, 1], in logarithms.

    The slope is the order of the remainder. The proposition promises 3; smooth data give 4.
    """
    x = torch.linspace(0, 1, 51, dtype=torch.float64).reshape(-1, 1, 1, 1)
    sigmas = torch.logspace(-3, -1.5, 16, dtype=torch.float64)
    small = sigmas <= 0.01  # the slope is a statement about small levels
    worlds = {"Gaussian": ((0.5,), BLUE, "o"), "1-D mixture": (theory.MEANS, VERMILION, "s")}

    figure = new_figure(3.3)
    axes = figure.subplots()
    decorate(
        axes, "Remainder of Proposition 1", "noise level $\\sigma$", "$\\max_x\\,|R(x;\\sigma) - \\mathrm{expansion}|$"
    )
    for name, (means, colour, marker) in worlds.items():
        gap = theory.proposition1_remainder(theory.smooth_mixture_score(means), x, sigmas)
        slope = theory.loglog_slope(sigmas[small], gap[small])
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.4}
        axes.loglog(sigmas.numpy(), gap.numpy(), **style, label=f"{name}: slope {slope:.2f}")
    guide = 0.15 * (sigmas / sigmas[-1]) ** 3
    style = {"color": GREY, "linewidth": 1.1, "linestyle": (0, (4, 3))}
    axes.loglog(sigmas.numpy(), guide.numpy(), **style, label="guide: slope 3 (the bound)")
    axes.legend(frameon=False, fontsize=SMALL + 0.5, labelcolor=INK, loc="upper left")
    grid_lines(axes, "both")
    return figure


def coup_toy_figure(runs: int = 10_000) -> Figure:
    """Draw COUP's toy world, and how often COUP flips a label under guidance by a disturbed classifier.

    Args:
        runs: Purifications for each of the 37 points on the right, which share their noise; 10,000 take ten seconds.
    """
    u, noise_levels = torch.linspace(-3, 3, 1201, dtype=torch.float64), (0, 1, 2, 3, 4, 5, 6, 8, 10)

    figure = new_figure(3.0)
    left, right = figure.subplots(1, 2)
    decorate(left, "Two classes, classifier with $c = 1$", "$u = 2x - 1$", "density, probability")
    decorate(right, f"Labels flipped, start at $u = {coup_toy.START:g}$", "noise level $c$ of the classifier", "share")
    for label, colour in ((0, BLUE), (1, VERMILION)):
        _curve(left, u, coup_toy.class_density(u, label), colour, f"$p_{label}(u)$")
    left.plot(u.numpy(), coup_toy.class_probability(u, 1.0).numpy(), color=INK, linewidth=0.9, label="$p(1\\,|\\,u)$")
    left.set(xlim=(-3, 3), ylim=(0, 1.08))
    for lam, colour, marker in zip((0, 1, 2, 5, 10), (GREY, *CYCLE), MARKERS, strict=False):
        if lam == 0:  # nobody asks the classifier
            shares = [coup_toy.flip_probability(0, 0, runs).last] * len(noise_levels)
        else:
            shares = [coup_toy.flip_probability(lam, c, runs).last for c in noise_levels]
        style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.4}
        right.plot(noise_levels, shares, **style, label=f"$\\lambda = {lam}$")
    right.set(ylim=(0, None))
    grid_lines(right)
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=SMALL, labelcolor=INK, loc="upper left")
    return figure


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
        class_names: Names of the classes.
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
    figure.get_layout_engine().set(h_pad=0.07)
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, pictures in enumerate(columns):
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            _picture(axes, picture)
        for text, height, size, colour in ((headings[column], 29, NORMAL, INK), (notes[column], 18, SMALL, GREY)):
            _note(grid[0, column], text, (0.5, 1), (0, height), size, colour, "axes fraction", ha="center")
    longest = max(map(len, class_names))
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
            _picture(axes, images[position].detach().float().cpu())
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


def _note(
    axes: Axes,
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    size: float = SMALL,
    colour: str = INK,
    units: str | tuple[str, str] = "data",
    **alignment: str,
) -> None:
    axes.annotate(
        text, at, offset, xycoords=units, textcoords="offset points", fontsize=size, color=colour, **alignment
    )


def _curve(axes: Axes, x: Tensor, y: Tensor, colour: str, label: str) -> None:
    axes.plot(x.numpy(), y.numpy(), color=colour, linewidth=1.8, label=label)
    axes.fill_between(x.numpy(), y.numpy(), color=colour, alpha=0.08, linewidth=0)


def _mark(axes: Axes, x: Tensor, y: Tensor, colour: str, label: str, above: bool) -> None:
    axes.plot(x.numpy(), y.numpy(), "o", color=colour, markeredgecolor="white", markersize=6, label=label, zorder=3)
    prefix = "x = " if len(x) <= 2 else ""
    for at, value in zip(x.tolist(), y.tolist(), strict=True):
        inside = min(max(at, 0.07), 0.93)  # keeps the number off the axis
        offset, side = (7, "bottom") if above else (-7, "top")
        _note(axes, f"${prefix}{at:.3f}$", (inside, value), (0, offset), ha="center", va=side)


def _tenfold(before: Tensor, after: Tensor) -> Tensor:
    return (0.5 + 10 * (after - before) / 2).clamp(0, 1)


def _picture(axes: Axes, picture: Tensor) -> None:
    shown = picture[0] if len(picture) == 1 else picture.permute(1, 2, 0)
    axes.imshow(shown.clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#CCCCCC", linewidth=0.5)


def _verdict(axes: Axes, label: int, guess: int, class_names: Sequence[str], size: float) -> None:
    right = label == guess
    text = f"{class_names[label]} → {class_names[guess]} {'✓' if right else '✗'}"
    axes.set_title(text, fontsize=size, color=RIGHT if right else WRONG, pad=3)


def _band(axes: Axes, values: Tensor, colour: str) -> None:
    levels = range(len(values))
    low, high = torch.quantile(values, torch.tensor([0.1, 0.9]), dim=1).numpy()
    axes.fill_between(levels, low, high, color=colour, alpha=0.18, linewidth=0, label="10-90 %")
    marker = "o" if len(values) <= 30 else None
    axes.plot(levels, values.mean(1).numpy(), color=colour, linewidth=1.6, marker=marker, markersize=3, label="mean")
    grid_lines(axes)


FIGURES: dict[str, Callable[[], Figure]] = {
    "reconstruction-error": reconstruction_error_figure,
    "proposition-1": proposition1_figure,
    "coup-toy": coup_toy_figure,
}
