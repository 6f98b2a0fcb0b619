"""GDMP: short DDPM purifications in a row, each pulled toward the diffused input.

Reference: Wang, Lyu, Lin, Dai, Fu (2022), "Guided Diffusion Model for Adversarial Purification".

    repeat M times:  u = sqrt(alpha_bar_Tp) u + sqrt(1 - alpha_bar_Tp) z               (u = 2 x - 1 at first)
        for i = Tp - 1, .., 0:  u_ref = sqrt(alpha_bar_i) (2 x - 1) + sqrt(1 - alpha_bar_i) z'
            c = 3 a / (2 eps) sqrt((1 - alpha_bar_i) / alpha_bar_i)
            u ~ N(mean + variance c grad_u G(u, u_ref), variance) of DDPM's step, without noise at i = 0
"""

from __future__ import annotations

import math
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from lit_pursamere.diffusion import (
    VP,
    NoiseSource,
    ScoreModel,
    ddpm_moments,
    diffuse,
    vp_noise,
)
from lit_pursamere.purifiers.base import Purifier

__all__ = ["GDMP"]

C1, C2 = 0.01**2, 0.03**2  # of SSIM, for images of range 1 as the authors set them, although the states' range is 2


class GDMP(Purifier):
    """Repeated partial diffusion and ancestral sampling with an optional guide G, one image at a time.

    Costs rounds * t_star network evaluations and as many Gaussians, and as many again with a guide: 144 and 288 at the
    defaults. The exact gradient of an attack goes through the guide; `first_order` leaves that path out.

    For Gaussian images and an exact score an unguided round tends to what `DiffPure` says of the SDE, and M rounds
    leave w^M of x's deviation from the mean: Gibbs sampling, which keeps the distribution of the images.

    Args:
        score_model: The paper: DDPM's U-Net (EMA weights).
        guide: `mse`: G is minus the mean squared difference from u_ref; `ssim`: the structural similarity; `none`.
        scale: Strength a of the guide per image; None: 600 for `mse`, 700 for `ssim`. The authors' code has 60000 and
            70000, but averages G over its batch of 100 images.
        rounds: Number M of purifications in a row (authors' attacks: 2).
        t_star: Index Tp to which an image is diffused; the first step back is from Tp - 1 (authors' attacks: 60).
        eps: Budget of the attack, linf in pixel units, which sets the strength of the guide.
        clip: Whether the estimate of the clean image is clipped to the box at every step.
        variance: Noise of a step: `fixed_large` or `fixed_small`, see `DP_DDPM`.
        seed: Streams `forward` (one draw a round), `reverse` (one a step but the last) and `guide` (one a step,
            for u_ref).

    Raises:
        ValueError: If a number is out of range, or the guide or the variance is unknown.
    """

    streams, centred = ("forward", "reverse", "guide"), True

    def __init__(
        self,
        score_model: ScoreModel,
        guide: Literal["none", "mse", "ssim"] = "ssim",
        scale: float | None = None,
        rounds: int = 4,
        t_star: int = 36,
        eps: float = 8 / 255,
        clip: bool = True,
        variance: Literal["fixed_large", "fixed_small"] = "fixed_large",
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, seed)
        if guide not in ("none", "mse", "ssim") or variance not in ("fixed_large", "fixed_small"):
            raise ValueError(
                "GDMP knows the guides none, mse and ssim and the variances fixed_large and fixed_small; "
                f"got {guide!r} and {variance!r}"
            )
        if rounds < 1 or not 0 < t_star < VP.steps:
            raise ValueError(f"GDMP needs rounds >= 1 and t_star in 1..{VP.steps - 1}; got {rounds} and {t_star}")
        scale = {"none": 0.0, "mse": 600.0, "ssim": 700.0}[guide] if scale is None else scale
        if not 0 <= scale < math.inf or not 0 < eps < math.inf:
            raise ValueError(f"GDMP needs scale >= 0 and eps > 0; got {scale} and {eps}")
        self.guide, self.scale, self.rounds, self.t_star, self.eps = guide, scale, rounds, t_star, eps
        self.clip, self.variance = clip, variance
        self.alpha_bars = tuple(VP.alpha_bar_table[: t_star + 1].tolist())

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        u = 2 * x - 1
        for m in range(self.rounds):
            u = diffuse(u, self.alpha_bars[-1], noise.draw("forward", m, 1, x)[0])
            for i in reversed(range(self.t_star)):
                k = (m + 1) * self.t_star - i
                z = noise.draw("reverse", k, 1, x)[0] if i > 0 else 0.0
                z_ref = noise.draw("guide", k, 1, x)[0] if self.guide != "none" else None
                (u,) = self.checkpointed(partial(self._step, i=i, z=z, z_ref=z_ref), u, x)
        return (u + 1) / 2

    def _step(self, u: Tensor, x: Tensor, i: int, z: Tensor | float, z_ref: Tensor | None) -> tuple[Tensor]:
        alpha_bar, lower = self.alpha_bars[i], self.alpha_bars[i - 1] if i > 0 else 1.0
        xi_hat = vp_noise(self.score_model, u, alpha_bar)
        mean, variance = ddpm_moments(u, xi_hat, alpha_bar, lower, self.clip, self.variance)
        if z_ref is not None:
            u_ref = diffuse(2 * x - 1, alpha_bar, z_ref)
            strength = self.scale * 3 / (2 * self.eps) * ((1 - alpha_bar) / alpha_bar) ** 0.5
            mean = mean + variance * strength * self._guidance(u, u_ref)
        return (mean + variance**0.5 * z,)

    def _guidance(self, u: Tensor, u_ref: Tensor) -> Tensor:
        """Gradient of G with respect to the state."""
        likeness = negative_mse if self.guide == "mse" else ssim
        return self.gradient(partial(likeness, other=u_ref), u)[1]


def negative_mse(u: Tensor, other: Tensor) -> Tensor:
    """Minus the mean squared difference, (B,)."""
    return -(u - other).square().flatten(1).mean(1)


def ssim(u: Tensor, other: Tensor, size: int = 11, std: float = 1.5) -> Tensor:
    """Structural similarity with a Gaussian window, zeros around the image, mean over pixels, (B,)."""
    channels = u.shape[1]
    line = torch.exp(-((torch.arange(size, dtype=u.dtype, device=u.device) - size // 2) ** 2) / (2 * std**2))
    window = (line[:, None] * line / line.sum() ** 2).expand(channels, 1, size, size)
    blur = partial(conv2d, weight=window, padding=size // 2, groups=channels)
    mean, mean_other = blur(u), blur(other)
    variance, variance_other = blur(u * u) - mean**2, blur(other * other) - mean_other**2
    covariance = blur(u * other) - mean * mean_other
    luminance = (2 * mean * mean_other + C1) / (mean**2 + mean_other**2 + C1)
    return (luminance * (2 * covariance + C2) / (variance + variance_other + C2)).flatten(1).mean(1)
