"""DP_DDPM and DP_DDIM: diffuse the image part of the way, then the strided reverse steps of DDPM or DDIM.

Reference: Liu et al. (2025), "Understanding and Enhancing the Robustness of Diffusion-Based Purification",
eqs. (3) to (5); Ho et al. (2020), eq. 7; DDIM: Song, Meng, Ermon (2021), eq. 12.

    u = sqrt(alpha_bar_t*) (2 x - 1) + sqrt(1 - alpha_bar_t*) z
    for t = t*, t* - q, .., 0 with q = 1000 / S:  u_0 = clip((u - sqrt(1 - alpha_bar_t) xi_hat) / sqrt(alpha_bar_t))
        DDPM  u = mean(u_0, u) + sqrt(1 - alpha_bar_t / alpha_bar_{t-q}) z_t           (alpha_bar_{<0} = 1; z_0 = 0)
        DDIM  u = sqrt(alpha_bar_{t-q}) u_0 + sqrt(1 - alpha_bar_{t-q}) xi_hat
"""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Literal

from torch import Tensor

from lit_pursamere.diffusion import (
    VP,
    NoiseSource,
    ScoreModel,
    ddim_step,
    ddpm_step,
    diffuse,
    vp_noise,
)
from lit_pursamere.purifiers.base import Purifier

__all__ = ["DP_DDIM", "DP_DDPM"]


class Strided(Purifier):
    """Forward diffusion to index t_star of the table of 1000 levels, then back over every (1000 / steps)-th index."""

    centred = True

    def __init__(self, score_model: ScoreModel, t_star: int, steps: int, clip: bool, seed: int) -> None:
        super().__init__(score_model, seed)
        name = type(self).__name__
        if not 0 <= t_star < VP.steps:
            raise ValueError(f"{name} needs t_star in 0..{VP.steps - 1}; got {t_star}")
        if steps < 1 or VP.steps % steps or t_star % (VP.steps // steps):
            raise ValueError(
                f"{name} needs steps that divide {VP.steps} into a stride that divides t_star; got steps={steps} and "
                f"t_star={t_star}"
            )
        self.t_star, self.steps, self.clip = t_star, steps, clip
        self.timesteps = tuple(range(t_star, -1, -(VP.steps // steps)))
        powers = VP.alpha_bar_table.tolist()
        self.alpha_bars = tuple(powers[t] for t in self.timesteps)

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        u = diffuse(2 * x - 1, self.alpha_bars[0], noise.draw("forward", 0, 1, x)[0])
        lowers = (*self.alpha_bars[1:], 1.0)
        for k, (alpha_bar, lower) in enumerate(zip(self.alpha_bars, lowers, strict=True), start=1):
            z = self._reverse_noise(noise, k, x) if lower < 1 else 0.0
            (u,) = self.checkpointed(partial(self._step, alpha_bar=alpha_bar, lower=lower, z=z), u)
        return (u + 1) / 2

    @abstractmethod
    def _reverse_noise(self, noise: NoiseSource, k: int, x: Tensor) -> Tensor | float:
        """Draw the noise of reverse step k."""

    @abstractmethod
    def _step(self, u: Tensor, alpha_bar: float, lower: float, z: Tensor | float) -> tuple[Tensor]:
        """From signal power alpha_bar to `lower`."""


class DP_DDPM(Strided):
    """Noise on the way forward and at every step back: DiffPure with the sampler of DDPM.

    Costs t_star * steps / 1000 + 1 network evaluations and as many Gaussians: 101 at the defaults.

    For Gaussian images and an exact score it tends to what `DiffPure` says of the SDE: a draw of the clean image given
    the diffused one.

    Args:
        score_model: The paper: DDPM's U-Net (EMA weights).
        t_star: Index in 0..999 of the level to which the image is diffused (paper: 100).
        steps: Length S of the whole reverse process, of which the last tenth is run (paper: 1000; also 500, 200, 100,
            50); its table calls t_star * S / 1000 the NFE.
        clip: Whether the estimate of the clean image is clipped to the box at every step.
        variance: Noise of a step: `fixed_large`, beta of the step; `fixed_small`, that of the exact posterior of one
            clean image.
        seed: Streams `forward` (one draw) and `reverse` (one draw a step, none at the last).

    Raises:
        ValueError: If the stride does not divide t_star, a number is out of range, or the variance is unknown.
    """

    def __init__(
        self,
        score_model: ScoreModel,
        t_star: int = 100,
        steps: int = 1000,
        clip: bool = True,
        variance: Literal["fixed_large", "fixed_small"] = "fixed_large",
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, t_star, steps, clip, seed)
        if variance not in ("fixed_large", "fixed_small"):
            raise ValueError(f"DP_DDPM's variance must be 'fixed_large' or 'fixed_small'; got {variance!r}")
        self.variance = variance

    def _reverse_noise(self, noise: NoiseSource, k: int, x: Tensor) -> Tensor:
        return noise.draw("reverse", k, 1, x)[0]

    def _step(self, u: Tensor, alpha_bar: float, lower: float, z: Tensor | float) -> tuple[Tensor]:
        xi_hat = vp_noise(self.score_model, u, alpha_bar)
        return (ddpm_step(u, xi_hat, alpha_bar, lower, z, self.clip, self.variance),)


class DP_DDIM(Strided):
    """Noise on the way forward only: given that, a deterministic purification.

    Costs t_star * steps / 1000 + 1 network evaluations, 11 at the defaults, and one Gaussian.

    For Gaussian images and an exact score it tends to what `DiffPure` says of the ODE; few steps leave too little
    variance.

    Args:
        score_model: The paper: DDPM's U-Net (EMA weights).
        t_star: Index in 0..999 of the level to which the image is diffused (paper: 100).
        steps: Length S of the whole reverse process (paper: 100; its comparison with DP_DDPM: 1000).
        clip: Whether the estimate of the clean image is clipped to the box at every step; the noise estimate stays.
        seed: Stream `forward`, one draw.

    Raises:
        ValueError: If the stride does not divide t_star, or a number is out of range.
    """

    streams = ("forward",)

    def __init__(
        self,
        score_model: ScoreModel,
        t_star: int = 100,
        steps: int = 100,
        clip: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, t_star, steps, clip, seed)

    def _reverse_noise(self, noise: NoiseSource, k: int, x: Tensor) -> float:
        return 0.0

    def _step(self, u: Tensor, alpha_bar: float, lower: float, z: Tensor | float) -> tuple[Tensor]:
        return (ddim_step(u, vp_noise(self.score_model, u, alpha_bar), alpha_bar, lower, self.clip),)
