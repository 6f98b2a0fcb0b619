"""Samplers as pure functions of a score model, in [0, 1] pixel units.

References: annealed Langevin dynamics, Song & Ermon (2020), algorithm 1 and technique 5 (final denoising); DDIM, Song
et al. (2021), eq. 12 at eta = 0; Heun's second-order method, Karras et al. (2022), algorithm 1; Metropolis-adjusted
Langevin (MALA), Roberts & Tweedie (1996).

    Langevin   for sigma in sigmas:  step = step_size * (sigma / sigma_L)^2
                   repeat steps_per_level times:  x = x + step * score(x, sigma) + sqrt(2 step) z
               return denoise(x, sigma_L)
    DDIM       x' = x + (sigma' - sigma) xi_hat(x, sigma)          (keep the noise estimate, lower its level)
    Heun       x' = x + (sigma' - sigma) (xi_hat(x, sigma) + xi_hat(x', sigma')) / 2
    MALA       x' = one Langevin step; kept with probability p(x') q(x | x') / (p(x) q(x' | x)), else x stays

Steps of the variance-preserving samplers act on centred states u = sqrt(alpha_bar) (2 x - 1) + sqrt(1 - alpha_bar) xi
(Song et al., 2021, VP-SDE), and take any score model:

    SDE        u' = u + (beta u / 2 + beta s) dt + sqrt(beta dt) z,   s = -xi_hat / sqrt(1 - alpha_bar)
    ODE        u' = u + (beta u / 2 + beta s / 2) dt
    DDPM       u' ~ N(mean, variance), what is known of the next state from u and a clean image (Ho et al., 2020)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from lit_pursamere.diffusion.score_model import ScoreModel

__all__ = [
    "adjusted_langevin_step",
    "annealed_langevin",
    "churn",
    "ddim",
    "ddim_step",
    "ddpm_moments",
    "ddpm_step",
    "diffuse",
    "heun",
    "heun_step",
    "langevin_step",
    "learned_variance",
    "reverse_ode_step",
    "reverse_sde_step",
    "vp_clean",
    "vp_noise",
    "vp_score",
]


def annealed_langevin(
    score_model: ScoreModel,
    x: Tensor,
    sigmas: Sequence[float],
    step_size: float = 6.2e-6,
    steps_per_level: int = 5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw samples, starting from x.

    Args:
        score_model: Score of the noisy images.
        x: Starting points (B, C, H, W), usually uniform in [0, 1].
        sigmas: Noise levels, decreasing, in pixel units.
        step_size: Langevin step at the smallest level, in squared pixel units (CIFAR-10: 6.2e-6).
        steps_per_level: Langevin steps at every level (CIFAR-10: 5).
        generator: Source of the noise on x's device; None uses the global one.

    Returns:
        Denoised samples (B, C, H, W); not clipped.
    """
    for sigma in sigmas:
        step = step_size * (sigma / sigmas[-1]) ** 2
        for _ in range(steps_per_level):
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
            x = langevin_step(score_model, x, sigma, step, z)
    return score_model.denoise(x, sigmas[-1])


def ddim(score_model: ScoreModel, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Follow the noise estimate from level to level: Euler's method for dx / dsigma = xi_hat(x, sigma).

    Args:
        score_model: Estimates the noise in noisy images.
        x: Noisy images (B, C, H, W) at level sigmas[0].
        sigmas: Noise levels, decreasing; the last one may be 0, the clean image.

    Returns:
        Images (B, C, H, W) at the last level; not clipped.
    """
    for sigma, lower in pairwise(sigmas):
        x = x + (lower - sigma) * score_model.predict_noise(x, sigma)
    return x


def heun(score_model: ScoreModel, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Follow dx / dsigma = xi_hat(x, sigma) with the trapezoidal rule; the step to level 0 is Euler's.

    Args and returns as in `ddim`; two network calls a step instead of one.
    """
    for sigma, lower in pairwise(sigmas):
        x = heun_step(score_model, x, sigma, lower)
    return x


def langevin_step(score_model: ScoreModel, x: Tensor, sigma: float, step: float, z: Tensor) -> Tensor:
    """One unadjusted Langevin step x + step score(x, sigma) + sqrt(2 step) z; `step` in squared pixel units."""
    return x + step * score_model.score(x, sigma) + (2 * step) ** 0.5 * z


def adjusted_langevin_step(
    log_density: Callable[[Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    step: float,
    z: Tensor,
    uniform: Tensor,
) -> tuple[Tensor, Tensor]:
    """One Metropolis-adjusted Langevin step, which leaves the density itself invariant at any step size.

    Args:
        log_density: Logarithm (B,) of a density of images, up to a constant; score models do not know it.
        score: Its gradient (B, C, H, W).
        x: Images (B, C, H, W).
        step: Langevin step in squared pixel units.
        z: Standard normal noise (B, C, H, W).
        uniform: Uniform numbers (B,) in [0, 1) that decide whether a step is kept.

    Returns:
        Next images (B, C, H, W), and which of them are the proposed ones (B,).
    """
    proposed = x + step * score(x) + (2 * step) ** 0.5 * z
    z_back = (x - proposed - step * score(proposed)) / (2 * step) ** 0.5  # the noise that would lead back
    gain = log_density(proposed) - log_density(x) + (z.square() - z_back.square()).flatten(1).sum(1) / 2
    accepted = uniform.log() < gain
    return torch.where(accepted[:, None, None, None], proposed, x), accepted


def heun_step(score_model: ScoreModel, x: Tensor, sigma: float, lower: float) -> Tensor:
    """One step of `heun` from level sigma to a lower one; Euler's, with one network call, if that is 0."""
    slope = score_model.predict_noise(x, sigma)
    euler = x + (lower - sigma) * slope
    return euler if lower == 0 else x + (lower - sigma) * (slope + score_model.predict_noise(euler, lower)) / 2


def churn(x: Tensor, sigma: float, gamma: float, z: Tensor | float, s_noise: float = 1.0) -> tuple[Tensor, float]:
    """Raise the noise of x from sigma to (1 + gamma) sigma (Karras et al., 2022, algorithm 2); also the new level."""
    raised = (1 + gamma) * sigma
    return x + (raised**2 - sigma**2) ** 0.5 * s_noise * z, raised


def diffuse(u: Tensor, alpha_bar: float, z: Tensor) -> Tensor:
    """Bring centred images u = 2 x - 1 (B, C, H, W) to signal power alpha_bar with the noise z: a VP state."""
    return alpha_bar**0.5 * u + (1 - alpha_bar) ** 0.5 * z


def vp_noise(score_model: ScoreModel, u: Tensor, alpha_bar: float) -> Tensor:
    """Noise estimate (B, C, H, W) of any score model for VP states u at signal power alpha_bar in (0, 1)."""
    return score_model.predict_noise((u / alpha_bar**0.5 + 1) / 2, (1 / alpha_bar - 1) ** 0.5 / 2)


def vp_score(score_model: ScoreModel, u: Tensor, alpha_bar: float) -> Tensor:
    """Gradient (B, C, H, W) of the log density of VP states at u: -xi_hat / sqrt(1 - alpha_bar)."""
    return -vp_noise(score_model, u, alpha_bar) / (1 - alpha_bar) ** 0.5


def reverse_sde_step(u: Tensor, score: Tensor, beta: float, dt: float, z: Tensor | float) -> Tensor:
    """One Euler-Maruyama step of the reverse VP-SDE with the noise z (0: the drift alone)."""
    return u + (0.5 * beta * u + beta * score) * dt + (beta * dt) ** 0.5 * z


def reverse_ode_step(u: Tensor, score: Tensor, beta: float, dt: float) -> Tensor:
    """One Euler step of the probability flow, whose marginals are those of the reverse VP-SDE."""
    return u + 0.5 * beta * (u + score) * dt


def vp_clean(u: Tensor, xi_hat: Tensor, alpha_bar: float, clip: bool = True) -> Tensor:
    """Centred clean image that a noise estimate means, (u - sqrt(1 - alpha_bar) xi_hat) / sqrt(alpha_bar)."""
    clean = (u - (1 - alpha_bar) ** 0.5 * xi_hat) / alpha_bar**0.5
    return clean.clamp(-1, 1) if clip else clean


def ddim_step(u: Tensor, xi_hat: Tensor, alpha_bar: float, lower: float, clip: bool = True) -> Tensor:
    """From signal power alpha_bar to `lower` (nearer to 1) along the noise estimate, without fresh noise."""
    return diffuse(vp_clean(u, xi_hat, alpha_bar, clip), lower, xi_hat)


def ddpm_moments(
    u: Tensor,
    xi_hat: Tensor,
    alpha_bar: float,
    lower: float,
    clip: bool = True,
    variance: Literal["fixed_large", "fixed_small"] = "fixed_large",
) -> tuple[Tensor, float]:
    """Mean (B, C, H, W) and variance of an ancestral step (Ho et al., 2020, eq. 7).

    Args:
        u: VP states (B, C, H, W) at signal power alpha_bar.
        xi_hat: Estimate of the noise in them.
        alpha_bar: Signal power of the states.
        lower: Signal power that the step leads to, above alpha_bar; 1 is the clean image.
        clip: Whether the clean image that the estimate means is clipped to [-1, 1].
        variance: `fixed_large`, beta of the step; `fixed_small`, what remains of it if the clean image is certain.
    """
    alpha = alpha_bar / lower
    beta = 1 - alpha
    clean = vp_clean(u, xi_hat, alpha_bar, clip)
    mean = (lower**0.5 * beta * clean + alpha**0.5 * (1 - lower) * u) / (1 - alpha_bar)
    return mean, beta if variance == "fixed_large" else beta * (1 - lower) / (1 - alpha_bar)


def learned_variance(v: Tensor, alpha_bar: float, lower: float, certain: float | None = None) -> Tensor:
    """Variance (B, C, H, W) of an ancestral step that a network interpolates (Nichol & Dhariwal, 2021, eq. 15).

    Args:
        v: What the network says, (B, C, H, W): -1 for `fixed_small`, 1 for `fixed_large`, geometrically in between.
        alpha_bar: Signal power of the states.
        lower: Signal power that the step leads to, above alpha_bar and below 1.
        certain: In place of the smallest variance, which is 0 in the step to the clean image (lower = 1).
    """
    beta = 1 - alpha_bar / lower
    small = beta * (1 - lower) / (1 - alpha_bar) if certain is None else certain
    share = (v + 1) / 2
    return torch.exp(share * math.log(beta) + (1 - share) * math.log(small))


def ddpm_step(
    u: Tensor,
    xi_hat: Tensor,
    alpha_bar: float,
    lower: float,
    z: Tensor | float,
    clip: bool = True,
    variance: Literal["fixed_large", "fixed_small"] = "fixed_large",
) -> Tensor:
    """Ancestral step from signal power alpha_bar to `lower` with the noise z, see `ddpm_moments`."""
    mean, square = ddpm_moments(u, xi_hat, alpha_bar, lower, clip, variance)
    return mean + square**0.5 * z
