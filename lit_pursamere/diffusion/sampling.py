"""Samplers as pure functions of a score model, in [0, 1] pixel units.

References: annealed Langevin dynamics, Song & Ermon (2020), algorithm 1 and technique 5 (final denoising); DDIM, Song
et al. (2021), eq. 12 at eta = 0; Heun's second-order method, Karras et al. (2022), algorithm 1.

    Langevin   for sigma in sigmas:  step = step_size * (sigma / sigma_L)^2
                   repeat steps_per_level times:  x = x + step * score(x, sigma) + sqrt(2 step) z
               return denoise(x, sigma_L)
    DDIM       x' = x + (sigma' - sigma) xi_hat(x, sigma)          (keep the noise estimate, lower its level)
    Heun       x' = x + (sigma' - sigma) (xi_hat(x, sigma) + xi_hat(x', sigma')) / 2
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lit_pursamere.diffusion.score_model import ScoreModel

__all__ = ["annealed_langevin", "ddim", "heun"]


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
            x = x + step * score_model.score(x, sigma) + (2 * step) ** 0.5 * z
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
        slope = score_model.predict_noise(x, sigma)
        euler = x + (lower - sigma) * slope
        x = euler if lower == 0 else x + (lower - sigma) * (slope + score_model.predict_noise(euler, lower)) / 2
    return x
