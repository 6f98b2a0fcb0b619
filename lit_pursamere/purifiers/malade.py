"""MALADE: a Langevin walk with the residual of a denoiser in place of the score; one full step of it is MagNet.

References: Srinivasan et al. (2021), "Robustifying Models Against Adversarial Attacks by Langevin Dynamics", eq. 11 and
theorem 1; Meng and Chen (2017), "MagNet: a Two-Pronged Defense against Adversarial Examples".

    for t = 1..N:  x = x + alpha_t / sigma2 (r(x) - x) + delta_t z_t    (r: the denoiser, E[clean image | x])
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lit_pursamere.diffusion import NoiseSource, ScoreModel
from lit_pursamere.purifiers.base import Purifier

__all__ = ["MALADE"]


class MALADE(Purifier):
    """N steps of unadjusted Langevin dynamics at a single noise level, without noise at the start.

    What it is depends on the denoiser: a denoising autoencoder trained together with a classifier (sDAE) makes it
    MALADE, a plain one the paper's MALA baseline, and alpha = sigma2, steps = 1, delta = 0 with an autoencoder is
    MagNet's reformer x = r(x). Exact Langevin dynamics needs delta^2 = 2 alpha. Costs `steps` network evaluations and
    as many Gaussians. The paper does not say steps, alpha and delta: they have to be chosen on a validation split.

    For Gaussian images N(m, tau^2 I) and an exact denoiser it tends, with delta^2 = 2 alpha and short steps, to the
    noisy images' N(m, (tau^2 + sigma2) I) whatever x is, and with delta 0 to m.

    Args:
        score_model: Its `denoise` is r.
        sigma2: Variance sigma^2 of the noise that r removes, in squared pixel units (paper: 0.15 for MNIST, 0.1 for
            ImageNet; a variance, not a deviation).
        alpha: Step size, in squared pixel units; sigma2 goes all the way to r(x).
        delta: Standard deviation of the noise of a step, in pixel units. 0 draws none.
        alpha_end: Step size of the last step; between, it changes evenly (appendix B.2.2 says annealing is best). None:
            alpha throughout.
        delta_end: The same for delta.
        steps: Number N of steps.
        clip_steps: Whether to clamp to the box after every step rather than once at the end.
        seed: Stream `reverse`, one draw a step.

    Raises:
        ValueError: If a number is out of range.
    """

    streams = ("reverse",)

    def __init__(
        self,
        score_model: ScoreModel,
        sigma2: float = 0.15,
        alpha: float = 0.015,
        delta: float = 0.0055,
        steps: int = 25,
        alpha_end: float | None = None,
        delta_end: float | None = None,
        clip_steps: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, seed)
        if not (0 < sigma2 < math.inf and 0 < alpha < math.inf and 0 <= delta < math.inf) or steps < 1:
            raise ValueError(
                "MALADE needs sigma2 and alpha above 0, delta >= 0 and steps >= 1; "
                f"got {sigma2}, {alpha}, {delta} and {steps}"
            )
        if not (alpha_end is None or 0 < alpha_end < math.inf) or not (delta_end is None or 0 <= delta_end < math.inf):
            raise ValueError(
                f"MALADE needs alpha_end above 0 and delta_end >= 0, or none; got {alpha_end} and {delta_end}"
            )
        self.sigma2, self.alpha, self.delta, self.steps, self.clip_steps = sigma2, alpha, delta, steps, clip_steps
        self.alpha_end, self.delta_end = alpha_end, delta_end
        self.alphas, self.deltas = evenly(alpha, alpha_end, steps), evenly(delta, delta_end, steps)

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        for k, (alpha, delta) in enumerate(zip(self.alphas, self.deltas, strict=True), start=1):
            z = delta * noise.draw("reverse", k, 1, x)[0] if delta > 0 else 0.0
            (x,) = self.checkpointed(partial(self._step, z=z, alpha=alpha), x)
        return x

    def _step(self, x: Tensor, z: Tensor | float, alpha: float) -> tuple[Tensor]:
        denoised = self.score_model.denoise(x, self.sigma2**0.5).to(x)  # under autocast it is of another type
        # lerp returns r(x) without rounding where alpha = sigma2
        x = torch.lerp(x, denoised, alpha / self.sigma2) + z
        return (x.clamp(0, 1) if self.clip_steps else x,)


def evenly(first: float, last: float | None, steps: int) -> tuple[float, ...]:
    """Numbers from the first to the last; None: the first throughout."""
    slope = 0.0 if last is None or steps == 1 else (last - first) / (steps - 1)
    return tuple(first + k * slope for k in range(steps))
