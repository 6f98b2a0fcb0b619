"""Denoising score matching is score matching: the training objective and the error of the score differ by a constant.

Reference: PurSAMERE (Hoang et al., 2026), eqs. (6), (7) and Lemma 1.

    E |xi + sigma s_theta(X + sigma xi)|^2 = sigma^2 E |s(Y) - s_theta(Y)|^2 + constant,     Y = X + sigma xi

X is the 1-D mixture of Figure 1 on the whole line. Both sides are computed apart: the left one by sums over X and xi,
the right one by a sum over Y, whose density is known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_pursamere.diffusion import ScoreModel, noise_residual
from lit_pursamere.worlds.theory import MEANS, STD, smooth_mixture_score

__all__ = ["denoising_loss", "score_error"]


def denoising_loss(model: ScoreModel, sigma: float) -> float:
    """Compute the mean over the data of the reconstruction error, E R(X; sigma): what training minimises, eq. (6).

    Args:
        model: Any score model of 1-D images in float64; of the data it need know nothing.
        sigma: Noise level in pixel units.
    """
    (x, of_x), (xi, of_xi) = _mixture(STD), _normal()
    residual = noise_residual(model, x, sigma, xi.reshape(-1, 1, 1, 1, 1))
    return float(of_xi @ residual.flatten(1).square() @ of_x)


def score_error(model: ScoreModel, sigma: float) -> float:
    """Compute sigma^2 E |s(Y) - s_theta(Y)|^2 of a model against the exact score of the noisy data.

    Args as for `denoising_loss`.
    """
    y, weights = _mixture((STD**2 + sigma**2) ** 0.5)
    gap = smooth_mixture_score().score(y, sigma) - model.score(y, sigma)
    return sigma**2 * float(gap.flatten().square() @ weights)


def _normal() -> tuple[Tensor, Tensor]:
    """Equally spaced points (N,) and weights (N,) of a standard normal; smooth integrands are right to 1e-8."""
    xi = torch.linspace(-8.5, 8.5, 171, dtype=torch.float64)
    weights = torch.exp(-(xi**2) / 2)
    return xi, weights / weights.sum()


def _mixture(std: float) -> tuple[Tensor, Tensor]:
    """Points (N, 1, 1, 1) and weights (N,) of the mixture with components of this deviation."""
    xi, weights = _normal()
    points = torch.cat([mean + std * xi for mean in MEANS]).reshape(-1, 1, 1, 1)
    return points, weights.repeat(len(MEANS)) / len(MEANS)
