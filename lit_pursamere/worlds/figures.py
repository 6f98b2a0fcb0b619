"""The theory redrawn.

References: PurSAMERE (Hoang et al., 2026), Figure 1 and Proposition 1; COUP (Zhang et al., 2024), Figure 3. The numbers
come from `theory` and `coup_toy`.

Every function returns a matplotlib Figure that belongs to nobody: no pyplot, no display, no global state. So it can be
saved, shown in a notebook, or handed to TensorBoard's `add_figure`. matplotlib itself is imported at the first drawing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lit_pursamere.report.style import (
    BLUE,
    CYCLE,
    GREY,
    INK,
    MARKERS,
    SMALL,
    VERMILION,
    decorate,
    grid_lines,
    new_figure,
    note,
)
from lit_pursamere.worlds import coup_toy, theory
from lit_pursamere.worlds.theorem_figures import (
    coup_distance_figure,
    lemma_1_figure,
    lemma_2_figure,
    lemma_3_figure,
    sdae_figure,
    theorem_2_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = [
    "FIGURES",
    "coup_toy_figure",
    "proposition1_figure",
    "reconstruction_error_figure",
]


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
    note(
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


def _curve(axes: Axes, x: Tensor, y: Tensor, colour: str, label: str) -> None:
    axes.plot(x.numpy(), y.numpy(), color=colour, linewidth=1.8, label=label)
    axes.fill_between(x.numpy(), y.numpy(), color=colour, alpha=0.08, linewidth=0)


def _mark(axes: Axes, x: Tensor, y: Tensor, colour: str, label: str, above: bool) -> None:
    axes.plot(x.numpy(), y.numpy(), "o", color=colour, markeredgecolor="white", markersize=6, label=label, zorder=3)
    prefix = "x = " if len(x) <= 2 else ""
    for at, value in zip(x.tolist(), y.tolist(), strict=True):
        inside = min(max(at, 0.07), 0.93)  # keeps the number off the axis
        offset, side = (7, "bottom") if above else (-7, "top")
        note(axes, f"${prefix}{at:.3f}$", (inside, value), (0, offset), ha="center", va=side)


FIGURES: dict[str, Callable[[], Figure]] = {
    "reconstruction-error": reconstruction_error_figure,
    "proposition-1": proposition1_figure,
    "lemma-1": lemma_1_figure,
    "lemma-2": lemma_2_figure,
    "lemma-3": lemma_3_figure,
    "theorem-2": theorem_2_figure,
    "coup-toy": coup_toy_figure,
    "coup-distance": coup_distance_figure,
    "sdae-residual": sdae_figure,
}
