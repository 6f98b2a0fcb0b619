"""Exact numbers for the theory: the reconstruction error R where it needs no sampling.

Reference: PurSAMERE (Hoang et al., 2026), Figure 1 and Proposition 1 (eq. 14).

    R(x; sigma) = sum_j w_j (xi_j - xi_hat(x + sigma xi_j, sigma))^2          Gauss-Hermite nodes xi_j, in 1-D
    truncated density = point masses at Gauss-Legendre nodes of [0, 1]        so its score model is a mixture, too
    R(x; sigma) ~ d + sigma^2 |s(x, 0)|^2 + 2 sigma^2 tr grad s(x, 0)         Proposition 1

Everything is float64; a 1-D "image" has shape (1, 1, 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.diffusion import GaussianMixtureScore, ScoreModel, expected_reconstruction_error

__all__ = [
    "exact_reconstruction_error",
    "gaussian_reconstruction_error",
    "local_minima",
    "loglog_slope",
    "proposition1_expansion",
    "proposition1_remainder",
    "smooth_mixture_score",
    "truncated_mixture_density",
    "truncated_mixture_score",
]

MEANS, STD = (0.25, 0.75), 0.1  # the mixture of Figure 1; its 0.1 is a standard deviation


def smooth_mixture_score(means: Sequence[float] = MEANS, std: float = STD) -> GaussianMixtureScore:
    """Build the exact score model of the 1-D mixture of N(mean, std^2) with equal weights on the whole line.

    Args:
        means: Component means in pixel units; a single one gives a Gaussian.
        std: Standard deviation of the components, above 0.

    Returns:
        A float64 score model for images (B, 1, 1, 1).
    """
    centres = torch.tensor(means, dtype=torch.float64)
    return _mixture(centres, std, torch.ones_like(centres))


def truncated_mixture_score(means: Sequence[float] = MEANS, std: float = STD, nodes: int = 256) -> GaussianMixtureScore:
    """Build the exact score model of the 1-D mixture of N(mean, std^2) truncated to [0, 1] (Figure 1).

    Args:
        means: Component means in pixel units, equally weighted.
        std: Standard deviation of the components.
        nodes: Gauss-Legendre nodes that stand for the density; 256 serve noise levels from 0.01 upwards.

    Returns:
        A float64 score model for images (B, 1, 1, 1).
    """
    places, weights = np.polynomial.legendre.leggauss(nodes)
    points = torch.from_numpy(places + 1) / 2
    return _mixture(points, 0.0, torch.from_numpy(weights) * truncated_mixture_density(points, means, std))


def _mixture(means: Tensor, std: float, weights: Tensor) -> GaussianMixtureScore:
    # The constructor rounds to the default dtype; the state put in afterwards keeps all digits.
    model = GaussianMixtureScore(means.reshape(-1, 1, 1, 1), std, weights.tolist()).double()
    log_weights = (weights / weights.sum()).log()
    model.load_state_dict(
        {"means": means.reshape(-1, 1, 1, 1), "std": torch.full_like(means, std), "log_weights": log_weights}
    )
    return model


def truncated_mixture_density(x: Tensor, means: Sequence[float] = MEANS, std: float = STD) -> Tensor:
    """Evaluate the density p_X of the mixture truncated to [0, 1]; same shape as x, 0 outside, integral 1."""
    x = x.double().unsqueeze(-1)
    components = torch.distributions.Normal(torch.tensor(means, dtype=torch.float64), std)
    ends = components.cdf(torch.tensor([[0.0], [1.0]], dtype=torch.float64))  # (2, K)
    density = components.log_prob(x).exp().mean(-1) / (ends[1] - ends[0]).mean()
    return torch.where((x >= 0) & (x <= 1), density.unsqueeze(-1), 0.0).squeeze(-1)


def exact_reconstruction_error(score_model: ScoreModel, x: Tensor, sigma: float | Tensor, nodes: int = 80) -> Tensor:
    """Compute R(x; sigma) of 1-D images by Gauss-Hermite quadrature: eq. (8) without sampling error.

    Args:
        score_model: Exact score model of 1-D images in float64.
        x: Points (B, 1, 1, 1).
        sigma: Noise level in pixel units, a scalar or one per point (B,).
        nodes: Gauss-Hermite nodes, which take the place of the noise draws.

    Returns:
        R in float64, (B,).

    Raises:
        ValueError: If the images have more than one pixel.
    """
    if x.ndim != 4 or x[0].numel() != 1:
        raise ValueError(f"exact_reconstruction_error needs 1-D images (B, 1, 1, 1); got {tuple(x.shape)}")
    xi, weights = (torch.from_numpy(column) for column in np.polynomial.hermite_e.hermegauss(nodes))
    noise = xi.repeat(len(x)).reshape(1, -1, 1, 1, 1)
    # One draw for each copy of a point: the nodes carry unequal weights, and R averages draws with equal ones.
    copies = x.double().repeat_interleave(nodes, dim=0)
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    sigma = sigma.repeat_interleave(nodes) if sigma.ndim else sigma
    error = expected_reconstruction_error(score_model, copies, sigma, noise)
    return error.unflatten(0, (len(x), nodes)) @ (weights / weights.sum())


def gaussian_reconstruction_error(
    x: Tensor, sigma: float | Tensor, mean: float | Tensor = 0.5, std: float = STD
) -> Tensor:
    """Compute R(x; sigma) for data from N(mean, std^2 I) in closed form.

    R = (d std^4 + sigma^2 |x - mean|^2) / (std^2 + sigma^2)^2, because there denoising is linear.

    Args:
        x: Images (B, C, H, W).
        sigma: Noise level in pixel units, a scalar or one per image (B,).
        mean: Mean image, a scalar or (C, H, W).
        std: Standard deviation of the data in pixel units.

    Returns:
        R in float64, (B,).
    """
    offset = (x.double() - mean).flatten(1)
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    numerator = offset.shape[1] * std**4 + sigma**2 * offset.square().sum(1)
    return numerator / (std**2 + sigma**2) ** 2


def proposition1_expansion(
    score_model: ScoreModel, x: Tensor, sigma: float | Tensor, sigma_min: float = 1e-9
) -> Tensor:
    """Compute d + sigma^2 |s|^2 + 2 sigma^2 tr grad s with s = s(x, 0): the right-hand side of eq. (14).

    The trace takes one backward pass for each of the d pixels.

    Args:
        score_model: Score model in float64.
        x: Images (B, C, H, W).
        sigma: Noise level in pixel units, a scalar or one per image (B,).
        sigma_min: Level whose score stands for s(x, 0). At 1e-9 that is exact in float64 for a smooth mixture;
            data with compact support need a visible one, as the paper says below Proposition 1.

    Returns:
        The expansion in float64, (B,).
    """
    sigma = torch.as_tensor(sigma, dtype=torch.float64)
    with torch.enable_grad():
        x = x.detach().double().requires_grad_()
        s = score_model.score(x, sigma_min).flatten(1)
        rows = [torch.autograd.grad(s[:, i].sum(), x, retain_graph=True)[0] for i in range(s.shape[1])]
    trace = sum(row.flatten(1)[:, i] for i, row in enumerate(rows))
    return s.shape[1] + sigma**2 * (s.detach().square().sum(1) + 2 * trace)


def proposition1_remainder(score_model: ScoreModel, x: Tensor, sigmas: Tensor) -> Tensor:
    """Compute max over x of |R(x; sigma) - expansion|, the remainder that Proposition 1 bounds on a compact set.

    Args:
        score_model: Exact score model of 1-D images in float64.
        x: Points (B, 1, 1, 1) of the compact set.
        sigmas: Noise levels in pixel units, (S,).

    Returns:
        The remainder at every level, (S,). It is O(sigma^4) for smooth data, one order better than stated: R is an
        even function of sigma, since xi and -xi are equally likely.
    """
    points, levels = x.repeat(len(sigmas), 1, 1, 1), sigmas.double().repeat_interleave(len(x))
    exact = exact_reconstruction_error(score_model, points, levels)
    gap = (exact - proposition1_expansion(score_model, points, levels)).abs()
    return gap.unflatten(0, (len(sigmas), len(x))).amax(1)


def loglog_slope(x: Tensor, y: Tensor) -> float:
    """Fit log y = slope log x + constant by least squares and return the slope; x and y (N,), positive."""
    log_x, log_y = x.double().log(), y.double().log()
    centred = log_x - log_x.mean()
    return float((centred * log_y).sum() / centred.square().sum())


def local_minima(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Locate the interior minima of a function on a uniform grid, refined by the parabola through three points.

    Args:
        x: Uniform grid, increasing, (N,).
        values: Values of the function, (N,).

    Returns:
        Positions and values of the minima, (M,) each, from left to right.
    """
    left, middle, right = values[:-2], values[1:-1], values[2:]
    found = (middle < left) & (middle <= right)
    slope, curvature = (right - left)[found] / 2, (left - 2 * middle + right)[found]
    return x[1:-1][found] - (x[1] - x[0]) * slope / curvature, middle[found] - slope**2 / (2 * curvature)
