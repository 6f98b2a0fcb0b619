"""Lemmas, theorems and propositions redrawn: what they bound, and the bound, on worlds where both are known.

References: PurSAMERE (Hoang et al., 2026), Lemmas 1 to 3, Theorems 1 and 2; COUP (Zhang et al., 2024), Proposition 2;
MALADE (Srinivasan et al., 2021), Theorem 1. The numbers come from `score_matching`, `recovery`, `coup_distance` and
`sdae`. Figures as in `figures`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from lit_pursamere.diffusion import expected_reconstruction_error
from lit_pursamere.report.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    SMALL,
    VERMILION,
    caption,
    decorate,
    grid_lines,
    new_figure,
)
from lit_pursamere.worlds import coup_distance, recovery, score_matching, sdae, theory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "coup_distance_figure",
    "lemma_1_figure",
    "lemma_2_figure",
    "lemma_3_figure",
    "sdae_figure",
    "theorem_2_figure",
]

DASHED: Any = {"linewidth": 1.1, "linestyle": (0, (4, 3))}
FLOAT = torch.float64


def lemma_1_figure(sigma: float = 0.1) -> Figure:
    """Draw the training objective of wrong score models, and the error of their scores: they differ by a constant.

    Args:
        sigma: Noise level in pixel units, above 0.
    """
    stds = torch.linspace(0.05, 0.3, 26, dtype=FLOAT).tolist()
    models = [theory.smooth_mixture_score(std=std) for std in stds]
    loss = torch.tensor([score_matching.denoising_loss(model, sigma) for model in models], dtype=FLOAT)
    error = torch.tensor([score_matching.score_error(model, sigma) for model in models], dtype=FLOAT)

    figure = new_figure(2.9)
    axes = figure.subplots()
    decorate(axes, "Lemma 1: score matching without the score", "deviation that the model believes in", "error")
    _line(axes, stds, loss, BLUE, "denoising score matching, eq. (6)")
    _line(axes, stds, error, VERMILION, "$\\sigma^2\\,E\\,|s - s_\\theta|^2$")
    axes.plot(stds, loss - error, color=GREY, **DASHED, label="difference")
    axes.axvline(theory.STD, color=INK, linewidth=0.7, linestyle=(0, (1, 2)))
    axes.set(ylim=(0, 1.05 * float(loss.max())), xlim=(stds[0], stds[-1]))
    _finish(axes, loc="center right")
    spread = float((loss - error).max() - (loss - error).min())
    caption(
        figure,
        f"Mixture of Figure 1, components of deviation {theory.STD:g} (dotted), noise level {sigma:g}.\n"
        f"The difference varies by {spread:.0e}, so both have the same minimum: at the truth.",
    )
    return figure


def lemma_2_figure() -> Figure:
    """Draw how much of an expectation lies far away, for three dimensions, and Lemma 2's bound on it."""
    figure = new_figure(3.0)
    for axes, dimension in zip(figure.subplots(1, 3), (1, 64, 3072), strict=True):
        top = 1 + 4.5 / dimension**0.45
        ratios = torch.linspace(1, top, 41, dtype=FLOAT).tolist()
        decorate(axes, f"d = {dimension:,}", "radius / noise level", "share of $C$" if dimension == 1 else "")
        for power, colour in ((1, BLUE), (2, GREEN)):
            scale = math.sqrt(recovery.tail_moment(0, dimension, 2 * power))
            share = [recovery.tail_moment(ratio, dimension, power) / scale for ratio in ratios]
            axes.semilogy(ratios, share, color=colour, linewidth=1.6, label=f"$g = |\\xi|^{2 * power}$")
        hardest = [math.sqrt(recovery.tail_moment(ratio, dimension)) for ratio in ratios]
        axes.semilogy(ratios, hardest, color=VERMILION, linewidth=1.6, label="hardest $g$")
        bound = [recovery.lemma_2_bound(ratio, dimension) for ratio in ratios]
        axes.semilogy(ratios, bound, color=GREY, **DASHED, label="bound")
        axes.set(xlim=(1, top))
        _finish(axes, loc="lower left")
    caption(
        figure,
        "$|E\\,1\\{x + \\sigma\\Xi \\notin D\\}\\,g(\\Xi)|/C$, D the ball of radius $\\sqrt{d}\\varrho$ about x.\n"
        "The hardest g is the indicator itself. No curve crosses the bound.",
    )
    return figure


def lemma_3_figure(seed: int = 0) -> Figure:
    """Draw a disturbed parabola, and how far disturbances of many sizes displace its minimiser.

    Args:
        seed: Of the disturbances.
    """
    mu, eps = 4.0, 0.05
    x = torch.linspace(-0.4, 0.4, 8001, dtype=FLOAT)
    sharpest = mu * x**2 + recovery.sharpest_disturbance(x.abs(), eps, mu)
    figure = new_figure(3.0)
    left, right = figure.subplots(1, 2)
    decorate(left, "The worst disturbance", "$x - x^*$", "$f(x)$")
    left.fill_between(
        x, mu * x**2 - eps, mu * x**2 + eps, color=BLUE, alpha=0.12, linewidth=0, label="$\\pm\\varepsilon$"
    )
    _line(left, x, sharpest, VERMILION, "worst $f$")
    for side in (-1, 1):
        left.axvline(side * recovery.lemma_3_bound(eps, mu), color=GREY, **DASHED)
    left.set(xlim=(-0.25, 0.25), ylim=(-0.06, 0.3))
    _finish(left, loc="upper center")

    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-4, -1, 16, dtype=FLOAT).tolist()
    decorate(right, "How far minimisers move", "$\\varepsilon$", "$|x_{min} - x^*|$")
    points, hessian = x.reshape(-1, 1), torch.tensor([[mu]], dtype=FLOAT)
    for size in sizes:
        moved = [recovery.displaced_minimiser(hessian, size * _waves(x, generator), points) for _ in range(20)]
        right.loglog([size] * 20, moved, ".", color=BLUE, markersize=3, label="random" if size == sizes[0] else None)
    worst = [
        recovery.displaced_minimiser(hessian, recovery.sharpest_disturbance(x.abs(), e, mu), points) for e in sizes
    ]
    right.loglog(sizes, worst, "s", color=VERMILION, markersize=3.5, label="worst")
    right.loglog(sizes, [recovery.lemma_3_bound(e, mu) for e in sizes], color=GREY, **DASHED, label="bound")
    right.set(ylim=(1e-4, 0.5))
    _finish(right, loc="lower right")
    caption(
        figure, "Curvature 4; dashed: $\\sqrt{2\\varepsilon/\\mu}$. The worst disturbance reaches 98 % of the bound."
    )
    return figure


def theorem_2_figure() -> Figure:
    """Draw how far the reconstruction error's minimiser lies from the density's maximiser, and Theorem 2's bound."""
    x = torch.linspace(0.3, 0.85, 276, dtype=FLOAT).reshape(-1, 1, 1, 1)
    sigmas = (1 / torch.linspace(5, 28, 93, dtype=FLOAT)).tolist()
    figure = new_figure(3.0)
    left, right = figure.subplots(1, 2)
    decorate(left, "Above the minimum", "$x$", "$(R(x;\\sigma) - \\min R)\\,/\\,\\sigma^2$")
    noise = torch.special.ndtri((torch.arange(2000, dtype=FLOAT) + 0.5) / 2000).reshape(-1, 1, 1, 1, 1)
    for sigma, colour in ((0.2, VERMILION), (0.1, GREEN), (0.05, BLUE)):
        error = expected_reconstruction_error(recovery.PiecewiseAffine(), x, sigma, noise)
        _line(left, x.flatten(), (error - error.min()) / sigma**2, colour, f"$\\sigma = {sigma:g}$")
    left.axvline(recovery.CENTRE, color=INK, linewidth=0.7, linestyle=(0, (1, 2)))
    left.set(xlim=(0.3, 0.85), ylim=(0, 0.5))
    _finish(left, loc="lower right")
    decorate(right, "Distance to the maximum", "$1/\\sigma$", "$|x'_\\sigma - x^*|$")
    inverse = [1 / sigma for sigma in sigmas]
    errors = [recovery.minimiser_error(sigma) for sigma in sigmas]
    right.semilogy(inverse, errors, color=BLUE, linewidth=1.8, label="minimiser of $R$")
    right.semilogy(inverse, [recovery.theorem_2_bound(s) for s in sigmas], color=GREY, **DASHED, label="bound")
    _finish(right, loc="lower left")
    caption(
        figure,
        "Score $-$clip(4(x $-$ 1/2), $-$1, 2), maximum of the density at 1/2 (dotted).\n"
        "The minimiser comes to it faster than exponentially in $1/\\sigma$.",
    )
    return figure


def coup_distance_figure(runs: int = 300) -> Figure:
    """Draw how far COUP moves points of its toy against Proposition 2's bound, and a score that breaks one reading.

    Args:
        runs: Purifications for each of four times.
    """
    figure = new_figure(3.1)
    left, right = figure.subplots(1, 2)
    decorate(left, "Guided paths of the toy", "bound of the path", "distance moved")
    for t_star, colour in zip((0.2, 0.1, 0.05, 0.025), (INK, VERMILION, GREEN, BLUE), strict=True):
        motion = coup_distance.coup_motion(t_star, runs=runs)
        bound = coup_distance.proposition_2_bound(motion, t_star)
        left.plot(bound, motion.moved, ".", color=colour, markersize=2.5, label=f"$t^* = {t_star:g}$")
    left.axline((0, 0), slope=1, color=GREY, **DASHED)
    left.set(xlim=(0, None), ylim=(0, None))
    _finish(left, loc="lower right")

    decorate(right, "A constant score, no noise", "$t^*$", "distance / bound")
    times = torch.linspace(0.02, 0.2, 10, dtype=FLOAT).tolist()
    motions = [coup_distance.constant_score_motion(t) for t in times]
    for label, kind, propagated, colour in (
        ("$C_x$: the image alone", 0, False, VERMILION),
        ("the same, $e^\\gamma - 1$ for $\\gamma$", 0, True, GREEN),
        ("$C_x$: all states", 1, False, BLUE),
    ):
        bounds = [
            coup_distance.proposition_2_bound(m[kind], t, propagated) for m, t in zip(motions, times, strict=True)
        ]
        share = [float(m[0].moved / bound) for m, bound in zip(motions, bounds, strict=True)]
        _line(right, times, share, colour, label)
    right.axhline(1, color=GREY, **DASHED)
    right.set(xlim=(0, 0.2), ylim=(0.85, 1.2))
    _finish(right, loc="upper left")
    caption(
        figure,
        "Centred pixels. Left: no path passes its bound, with $C_x$ its largest state. "
        "Right: with $C_x = |x|$ of the image alone\nthe bound is too small for a constant score.",
    )
    return figure


def sdae_figure() -> Figure:
    """Draw what a supervised denoising autoencoder's residual tends to, and how fast."""
    z = torch.linspace(0, 1, 201, dtype=FLOAT)
    sigmas = torch.logspace(-3, -1.5, 16, dtype=FLOAT)
    worlds = (
        (0.0, INK, "no classifier"),
        (10.0, BLUE, "too unsure"),
        (sdae.BAYES, GREY, "Bayes'"),
        (150.0, VERMILION, "too sure"),
    )
    figure = new_figure(3.1)
    left, right = figure.subplots(1, 2)
    decorate(left, "Residual over $\\sigma^2$", "$z$", "$(r(z) - z)\\,/\\,\\sigma^2$")
    decorate(right, "Remainder of Theorem 1", "noise level $\\sigma$", "largest $|r(z) - z - \\sigma^2\\,$limit$|$")
    for gain, colour, name in worlds:
        limit = sdae.theorem_1_limit(z, gain)
        style: Any = {"color": colour, "linewidth": 1.6, "linestyle": "-" if gain != sdae.BAYES else (0, (4, 3))}
        left.plot(z, limit, **style, label=name)
        left.plot(z[::8], sdae.sdae_residual(z, 0.01, gain)[::8] / 0.01**2, ".", color=colour, markersize=4)
        gaps = [(sdae.sdae_residual(z, s, gain) - s**2 * limit).abs().max() for s in sigmas.tolist()]
        slope = theory.loglog_slope(sigmas[:8], torch.stack(gaps)[:8])
        right.loglog(sigmas, torch.stack(gaps), **style, label=f"{name}: slope {slope:.2f}")
    right.loglog(sigmas, 0.05 * (sigmas / sigmas[-1]) ** 3, color=GREEN, linewidth=1, linestyle=":", label="slope 3")
    left.set(xlim=(0, 1), ylim=(-52, 30))
    right.set(ylim=(1e-13, 1))
    for axes in (left, right):
        _finish(axes, loc="lower left" if axes is left else "lower right")
    caption(
        figure,
        "Left: limit (lines) and minimiser at $\\sigma = 0.01$ (dots). Bayes' classifier adds nothing:\n"
        "its curve covers the one without a classifier.",
    )
    return figure


def _waves(x: torch.Tensor, generator: torch.Generator, count: int = 6) -> torch.Tensor:
    """A random sum of waves whose absolute value is at most 1, (N,)."""
    heights, phases = torch.rand((2, count, 1), generator=generator, dtype=FLOAT)
    lengths = 10 ** (1 + 2 * torch.rand((count, 1), generator=generator, dtype=FLOAT))
    return (heights / heights.sum() * torch.sin(lengths * x + 2 * math.pi * phases)).sum(0)


def _line(axes: Axes, x: Any, y: Any, colour: str, label: str) -> None:
    axes.plot(x, y, color=colour, linewidth=1.8, label=label)


def _finish(axes: Axes, loc: Any) -> None:
    grid_lines(axes)
    axes.legend(frameon=False, fontsize=SMALL, labelcolor=INK, loc=loc)
