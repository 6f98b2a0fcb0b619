"""COUP: a reverse diffusion without forward noise, pushed toward what the classifier is already confident of.

Reference: Zhang, Li, Chen, Guo, Cheng (2024), "Classifier Guidance Enhances Diffusion-Based Adversarial Purification by
Preserving Predictive Information", ECAI.

    u = 2 x - 1
    for t from t* to 0:  s = -xi_hat(u, t) / sqrt(1 - alpha_bar(t)) + lam grad_u log max_y p(y | (u + 1) / 2)
        u = u + (beta u / 2 + beta s) dt + sqrt(beta dt) z      (sampler ddpm: its steps, mean + lam beta grad)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion import (
    VP,
    NoiseSource,
    ReverseStep,
    ScoreModel,
    ddpm_moments,
    reverse_sde_step,
    vp_noise,
    vp_score,
)
from lit_pursamere.purifiers.guided import ClassifierGuided

__all__ = ["COUP"]


class COUP(ClassifierGuided):
    """Reverse VP-SDE from the image itself, guided by the confidence of a classifier.

    Costs t_star / dt evaluations of the score network and as many of the classifier with its input gradient, and as
    many Gaussians: 100 each at the defaults. The exact gradient of an attack needs the classifier's second derivatives;
    `first_order` leaves them out.

    For Gaussian images, an exact score and no guidance it tends to a draw of the clean image given that x itself is the
    diffused one: of variance (1 - w) tau^2, see `DiffPure`, so narrower than the images.

    Args:
        score_model: The paper: DDPM++ (EMA weights).
        classifier: Maps images (B, C, H, W) in [0, 1] to logits (B, K). None, as in the paper: that of the defence. It
            sees the states of the process, which may leave the box.
        lam: Weight lambda of the guidance (paper: 1, which makes the target p(x) max_y p(y | x)). 0: no classifier.
        t_star: Time t* in (0, 1] at which the process starts (paper: 0.1 for linf, 0.075 for l2).
        sampler: `sde`, or `ddpm`: ancestral steps from index 1000 t* down to 0, one evaluation more.
        dt: Length of a step; for `ddpm` a multiple of 1/1000.
        stochastic: Whether noise is drawn; without it only the drift moves the image.
        seed: Stream `reverse`, one draw a step.

    Raises:
        ValueError: If a number is out of range or the sampler is unknown.
    """

    adjoint, streams, centred = False, ("reverse",), True

    def __init__(
        self,
        score_model: ScoreModel,
        classifier: nn.Module | None = None,
        lam: float = 1.0,
        t_star: float = 0.1,
        sampler: Literal["sde", "ddpm"] = "sde",
        dt: float = 1e-3,
        stochastic: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, classifier, lam, seed)
        if sampler not in ("sde", "ddpm"):
            raise ValueError(f"COUP's sampler must be 'sde' or 'ddpm'; got {sampler!r}")
        self.t_star, self.sampler, self.dt, self.stochastic = t_star, sampler, dt, stochastic
        self.steps = VP.reverse_steps(t_star, 0, dt) if sampler == "sde" else ancestral_steps(t_star, dt)
        self.draws = 0 if not stochastic else len(self.steps) - (sampler == "ddpm")

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        self.require_guide()
        advance: Callable[..., tuple[Tensor]] = self._euler if self.sampler == "sde" else self._ancestral
        steps = (
            partial(advance, step=step, z=noise.draw("reverse", k, 1, x)[0] if k <= self.draws else 0.0)
            for k, step in enumerate(self.steps, start=1)
        )
        return (self.integrate(2 * x - 1, steps) + 1) / 2

    def _euler(self, u: Tensor, step: ReverseStep, z: Tensor | float) -> tuple[Tensor]:
        score = vp_score(self.score_model, u, step.alpha_bar) + self.guidance(u)
        return (reverse_sde_step(u, score, step.beta, step.dt, z),)

    def _ancestral(self, u: Tensor, step: tuple[float, float], z: Tensor | float) -> tuple[Tensor]:
        mean, beta = ddpm_moments(u, vp_noise(self.score_model, u, step[0]), *step)
        return (mean + beta * self.guidance(u) + beta**0.5 * z,)


def ancestral_steps(t_star: float, dt: float) -> tuple[tuple[float, float], ...]:
    """Pairs of neighbouring signal powers of DDPM's table from index 1000 t* in steps of 1000 dt to 0, then to 1.

    Raises:
        ValueError: If the times lie outside the table.
    """
    stride, first = round(VP.steps * dt), round(VP.steps * t_star)
    if stride < 1 or not 0 < first < VP.steps:
        raise ValueError(f"DDPM's steps need dt >= 0.001 and t_star in [0.001, 0.999]; got {dt} and {t_star}")
    powers = VP.alpha_bar_table[torch.arange(first, -1, -stride)].tolist()
    return tuple(pairwise((*powers, 1.0)))
