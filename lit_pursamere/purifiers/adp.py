"""ADP: add noise once, then climb the score with a step size that every image chooses for itself.

Reference: Yoon, Hwang, Lee (2021), "Adversarial Purification with Score-based Generative Models", ICML.

    x = clamp(x + sigma z)
    repeat:  g = -xi_hat(x);  q = <g, -xi_hat(x + delta g)> / <g, g>
        alpha = clip(lam delta / (1 - q), 1e-5, 0.1);  an image with alpha <= tau is frozen for good
        x = clamp(x + alpha g)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_pursamere.diffusion import NoiseSource, ScoreModel
from lit_pursamere.purifiers.base import Purifier
from lit_pursamere.threat import over_images

__all__ = ["ADP"]

ALPHA_MIN, ALPHA_MAX = 1e-5, 1e-1


class ADP(Purifier):
    """Noise injection and deterministic score ascent with an adaptive step; one purified copy per call.

    Costs at most 2 steps network evaluations per copy; ends early when every image of the batch is frozen. The ascent
    direction g is sigma times the score, which is the body of NCSNv2: its division by sigma is left out.

    Args:
        score_model: The paper: NCSNv2 (its code: raw weights).
        sigma: Standard deviation of the injected noise in pixel units (paper: 0.25 or 0.1). Score models other than
            NCSNv2, which does not look at it, are asked for the noise at this level throughout.
        lam: Fraction lambda of the optimal step that is taken.
        delta: Length, in units of g, of the probe that measures how fast g changes.
        steps: Most ascent steps T.
        tau: Step size at or below which an image is frozen. 0 never freezes.
        rescale: Whether to map x to 255/256 x + 1/512 before the first step and back after every step of an image, as
            the authors' code does.
        seed: One draw, from stream `forward`.

    Raises:
        ValueError: If a number is out of range.
    """

    streams = ("forward",)

    def __init__(
        self,
        score_model: ScoreModel,
        sigma: float = 0.25,
        lam: float = 0.05,
        delta: float = 1e-3,
        steps: int = 10,
        tau: float = 1e-3,
        rescale: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, seed)
        if not all(0 < value < math.inf for value in (sigma, lam, delta)):
            raise ValueError(f"ADP needs sigma, lam and delta above 0; got {sigma}, {lam} and {delta}")
        if steps < 1 or not 0 <= tau < math.inf:
            raise ValueError(f"ADP needs steps >= 1 and tau >= 0; got {steps} and {tau}")
        self.sigma, self.lam, self.delta, self.steps, self.tau, self.rescale = sigma, lam, delta, steps, tau, rescale

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        x = (x + self.sigma * noise.draw("forward", 0, 1, x)[0]).clamp(0, 1)
        x = x * (255 / 256) + 1 / 512 if self.rescale else x
        running = x.new_ones(len(x))
        for _ in range(self.steps):
            x, running = self.checkpointed(self._step, x, running)
            # Nothing moves any more, so the images' results do not depend on this; a GPU would wait for the answer.
            if x.device.type == "cpu" and not running.any():
                break
        return x

    def _step(self, x: Tensor, running: Tensor) -> tuple[Tensor, Tensor]:
        g = -self.score_model.predict_noise(x, self.sigma)
        change = g + self.score_model.predict_noise(x + self.delta * g, self.sigma)
        # 1 - q in a form that does not cancel; the floor keeps derivatives finite where the clip is active anyway.
        fall = dot(g, change) / (dot(g, g) + torch.finfo(g.dtype).tiny)
        best = self.lam * self.delta
        alpha = torch.where(fall >= 0, best / fall.clamp_min(best / ALPHA_MAX), ALPHA_MIN).clamp_min(ALPHA_MIN)
        running = running.detach() * (alpha.detach() > self.tau)
        moved = x + over_images(alpha, x) * g
        moved = (moved * (256 / 255) - 1 / 510 if self.rescale else moved).clamp(0, 1)
        return torch.where(over_images(running, x) > 0, moved, x), running


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product per image, (B,)."""
    return (a * b).flatten(1).sum(1)
