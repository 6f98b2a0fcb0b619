"""Samplers as pure functions of a score model.

Reference: annealed Langevin dynamics, Song & Ermon (2020), algorithm 1 and technique 5 (final denoising).

    for sigma in sigmas:  step = step_size * (sigma / sigma_L)^2
        repeat steps_per_level times:  x = x + step * score(x, sigma) + sqrt(2 step) z
    return denoise(x, sigma_L)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_pursamere.diffusion.score_model import ScoreModel

__all__ = ["annealed_langevin"]


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
