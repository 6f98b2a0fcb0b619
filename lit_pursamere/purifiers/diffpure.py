"""DiffPure: diffuse the image part of the way, then run the reverse process of a diffusion model back.

Reference: Nie, Guo, Huang, Xiao, Vahdat, Anandkumar (2022), "Diffusion Models for Adversarial Purification", ICML.

    u = sqrt(alpha_bar*) (2 x - 1) + sqrt(1 - alpha_bar*) z
    for t from t* to t_end:  s = -xi_hat(u, t) / sqrt(1 - alpha_bar(t))
        u = u + (beta u / 2 + beta s) dt + sqrt(beta dt) z      (SDE; ODE: half the score, no noise)
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from torch import Tensor

from lit_pursamere.diffusion import (
    VP,
    NoiseSource,
    ReverseStep,
    ScoreModel,
    diffuse,
    reverse_ode_step,
    reverse_sde_step,
    vp_score,
)
from lit_pursamere.purifiers.base import Purifier

__all__ = ["DiffPure"]


class DiffPure(Purifier):
    """Forward diffusion to time t* in one step, then the reverse VP-SDE, or its probability flow, by Euler's method.

    Costs (t_star - t_end) / dt network evaluations, 100 at the defaults, and one Gaussian more than that (ODE: one).
    The result is clamped to the box, which the authors leave to the classifier.

    For Gaussian images N(m, tau^2 I) and an exact score the SDE tends to m + w (x - m) + tau sqrt(1 - w^2) z with w =
    tau^2 / (tau^2 + sigma^2), sigma the noise level at t_star: a draw of the clean image given the diffused one. The
    ODE remembers more of x, sqrt(w) in place of w. Both keep the distribution of the images.

    Args:
        score_model: The paper: DDPM++ (EMA weights).
        t_star: Time t* in (0, 1] to which the image is diffused (paper: 0.1 for linf 8/255, 0.075 for l2 0.5, 0.125
            for l2 1).
        sampler: `sde`, or `ode` for the probability flow, which draws no reverse noise.
        dt: Length of an Euler step.
        t_end: Time at which the reverse process ends.
        start: Signal power of the diffused image: `discrete`, entry 1000 t* - 1 of DDPM's table, as the authors' code
            does; `continuous`, that of the SDE at t*.
        seed: Streams `forward` (one draw) and `reverse` (one draw a step).

    Raises:
        ValueError: If the times are not ordered, or the sampler or the start is unknown.
    """

    adjoint, centred = False, True

    def __init__(
        self,
        score_model: ScoreModel,
        t_star: float = 0.1,
        sampler: Literal["sde", "ode"] = "sde",
        dt: float = 1e-3,
        t_end: float = 1e-5,
        start: Literal["discrete", "continuous"] = "discrete",
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, seed)
        if sampler not in ("sde", "ode"):
            raise ValueError(f"DiffPure's sampler must be 'sde' or 'ode'; got {sampler!r}")
        self.t_star, self.sampler, self.dt, self.t_end, self.start = t_star, sampler, dt, t_end, start
        self.steps, self.alpha_bar = VP.reverse_steps(t_star, t_end, dt), VP.start(t_star, start)

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        u = diffuse(2 * x - 1, self.alpha_bar, noise.draw("forward", 0, 1, x)[0])
        steps = (
            partial(self._step, step=step, z=noise.draw("reverse", k, 1, x)[0] if self.sampler == "sde" else None)
            for k, step in enumerate(self.steps, start=1)
        )
        return (self.integrate(u, steps) + 1) / 2

    def _step(self, u: Tensor, step: ReverseStep, z: Tensor | None) -> tuple[Tensor]:
        score = vp_score(self.score_model, u, step.alpha_bar)
        if z is None:
            return (reverse_ode_step(u, score, step.beta, step.dt),)
        return (reverse_sde_step(u, score, step.beta, step.dt, z),)
