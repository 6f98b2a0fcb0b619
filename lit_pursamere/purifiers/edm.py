"""DP_EDM: diffuse the image to a moderate level, then EDM's sampler, stochastic (SDE) or not (ODE).

References: Liu et al. (2025), "Understanding and Enhancing the Robustness of Diffusion-Based Purification",
appendix F; Karras et al. (2022), algorithm 2 and eq. 5.

    x = x + sigma_max z
    for neighbours sigma > sigma' of N levels and 0:  gamma = min(s_churn / N, sqrt(2) - 1), 0 outside [s_min, s_max]
        sigma_hat = (1 + gamma) sigma;  x = x + sqrt(sigma_hat^2 - sigma^2) s_noise z
        x = heun_step(x, sigma_hat, sigma')
"""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

from torch import Tensor

from lit_pursamere.diffusion import NoiseSource, ScoreModel, churn, heun_step
from lit_pursamere.diffusion.schedules import karras_levels
from lit_pursamere.purifiers.base import Purifier

__all__ = ["DP_EDM"]


class DP_EDM(Purifier):
    """Heun's method down a ladder of levels; the SDE adds a little noise before every step, the ODE (s_churn 0) none.

    Costs 2 steps - 1 network evaluations, 99 at the defaults. Levels are in pixel units, half of those in the paper.

    For Gaussian images N(m, tau^2 I) and an exact score the ODE tends to m + k (x - m) + tau sqrt(1 - k^2) z with k^2 =
    tau^2 / (tau^2 + sigma_max^2). The SDE (s_noise 1) forgets more: every churn from sigma to sigma_hat multiplies k^2
    by (tau^2 + sigma^2) / (tau^2 + sigma_hat^2). Both keep the distribution of the images.

    Args:
        score_model: The paper: EDM's unconditional network.
        sigma_max: Level to which the image is diffused and at which the sampler starts (paper: 0.5, centred).
        sigma_min: Smallest level before 0 (paper: 0.002, centred).
        steps: Number N of levels and of steps (the paper's NFE).
        rho: Exponent that spaces the levels; larger means shorter steps at small levels.
        s_churn: Amount of stochasticity; 6 is the paper's SDE, 0 its ODE.
        s_min: Smallest level at which noise is added (paper: 0.01, centred).
        s_max: Largest level at which noise is added (paper: 0.46, centred: below the start).
        s_noise: Factor of the added noise.
        seed: Streams `forward` (one draw) and `reverse` (one draw a step within the window).

    Raises:
        ValueError: If the levels are not ordered, or a number is out of range.
    """

    def __init__(
        self,
        score_model: ScoreModel,
        sigma_max: float = 0.25,
        sigma_min: float = 0.001,
        steps: int = 50,
        rho: float = 7.0,
        s_churn: float = 6.0,
        s_min: float = 0.005,
        s_max: float = 0.23,
        s_noise: float = 1.007,
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, seed)
        if not 0 < sigma_min < sigma_max < math.inf or not 0 < rho < math.inf or steps < 2:
            raise ValueError(
                "DP_EDM needs 0 < sigma_min < sigma_max, rho > 0 and steps >= 2; "
                f"got {sigma_min}, {sigma_max}, {rho} and {steps}"
            )
        if not all(0 <= value < math.inf for value in (s_churn, s_min, s_max, s_noise)):
            raise ValueError(f"DP_EDM needs s_* of at least 0; got {s_churn}, {s_min}, {s_max} and {s_noise}")
        self.sigma_max, self.sigma_min, self.steps, self.rho = sigma_max, sigma_min, steps, rho
        self.s_churn, self.s_min, self.s_max, self.s_noise = s_churn, s_min, s_max, s_noise
        self.sigmas = (*karras_levels(steps, sigma_min, sigma_max, rho), 0.0)
        gamma = min(s_churn / steps, math.sqrt(2) - 1)
        self.gammas = tuple(gamma if s_min <= sigma <= s_max else 0.0 for sigma in self.sigmas[:-1])

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        x = x + self.sigma_max * noise.draw("forward", 0, 1, x)[0]
        for k, ((sigma, lower), gamma) in enumerate(zip(pairwise(self.sigmas), self.gammas, strict=True), start=1):
            z = noise.draw("reverse", k, 1, x)[0] if gamma > 0 else 0.0
            (x,) = self.checkpointed(partial(self._step, sigma=sigma, lower=lower, gamma=gamma, z=z), x)
        return x

    def _step(self, x: Tensor, sigma: float, lower: float, gamma: float, z: Tensor | float) -> tuple[Tensor]:
        x, sigma = churn(x, sigma, gamma, z, self.s_noise)
        return (heun_step(self.score_model, x, sigma, lower),)
