"""DiffPure's Langevin variant: follow the score of nearly clean images, tied to where the walk started.

Reference: Nie, Guo, Huang, Xiao, Vahdat, Anandkumar (2022), "Diffusion Models for Adversarial Purification", LD-SDE.

    u = u_0 = 2 x - 1
    repeat horizon / dt times:  u = u + lam / 2 (s(u) - (u - u_0) / sigma2) dt + eta sqrt(lam dt) z
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from lit_pursamere.diffusion import VP, NoiseSource, ScoreModel, vp_score
from lit_pursamere.purifiers.base import Purifier

__all__ = ["DiffPureLD"]


class DiffPureLD(Purifier):
    """Langevin dynamics around the image: the score of nearly clean images and a pull back to where it started.

    Costs horizon / dt network evaluations and as many Gaussians, 100 at the defaults; there is no forward diffusion.

    For Gaussian images and an exact score it tends to the product of the density of nearly clean images and a Gaussian
    of variance sigma2 around x, with eta^2 times the product's variance.

    Args:
        lam: Speed lambda_LD of the dynamics.
        eta: Factor of the noise.
        sigma2: Variance, in centred units, of the Gaussian pull to the image.
        t: Time of the VP-SDE at which the score is taken.
        horizon: Duration of the dynamics.
        dt: Length of an Euler step.
        seed: Stream `reverse`, one draw a step.

    Raises:
        ValueError: If a number is not positive.
    """

    streams, centred = ("reverse",), True

    def __init__(
        self,
        score_model: ScoreModel,
        lam: float = 1e-2,
        eta: float = 5.0,
        sigma2: float = 1e-3,
        t: float = 1e-2,
        horizon: float = 1.0,
        dt: float = 1e-2,
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, seed)
        if not all(0 < value < math.inf for value in (lam, sigma2, horizon, dt)) or not 0 <= eta < math.inf:
            raise ValueError(
                f"DiffPureLD needs lam, sigma2, horizon and dt above 0 and eta >= 0; got {lam}, {sigma2}, {horizon}, "
                f"{dt} and {eta}"
            )
        self.lam, self.eta, self.sigma2, self.t, self.horizon, self.dt = lam, eta, sigma2, t, horizon, dt
        self.steps, self.alpha_bar = max(1, round(horizon / dt)), VP.start(t, "continuous")

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        u = u_0 = 2 * x - 1
        for k in range(1, self.steps + 1):
            z = noise.draw("reverse", k, 1, x)[0]
            (u,) = self.checkpointed(partial(self._step, z=z), u, u_0)
        return (u + 1) / 2

    def _step(self, u: Tensor, u_0: Tensor, z: Tensor) -> tuple[Tensor]:
        pull = vp_score(self.score_model, u, self.alpha_bar) - (u - u_0) / self.sigma2
        return (u + 0.5 * self.lam * pull * self.dt + self.eta * (self.lam * self.dt) ** 0.5 * z,)
