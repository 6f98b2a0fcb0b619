"""Langevin: annealed Langevin dynamics from the image itself, with the steps of the score model's own sampler.

Reference: Song and Ermon (2020), "Improved Techniques for Training Score-Based Generative Models", algorithm 1 and
technique 5; as a defence: a baseline of Srinivasan et al. (2021), section 3.2 (there unannealed, see `MALADE`).

    for sigma in sigmas:  step = step_size (sigma / sigma_L)^2
        repeat steps_per_level times:  x = x + step score(x, sigma) + sqrt(2 step) z
    x = denoise(x, sigma_L)
"""

from __future__ import annotations

import math
from functools import partial

from torch import Tensor

from lit_pursamere.diffusion import NoiseLevels, NoiseSource, ScoreModel, decreasing_levels, langevin_step
from lit_pursamere.purifiers.base import Purifier

__all__ = ["Langevin"]


class Langevin(Purifier):
    """Unadjusted Langevin dynamics (MALA without rejection) down a ladder of levels; a single level does not anneal.

    Costs steps_per_level network evaluations a level and one more to denoise, 316 at the defaults, and one Gaussian a
    step. No paper purifies with exactly this: step sizes are those of NCSNv2's sampler, the first level is a choice.

    For Gaussian images N(m, tau^2 I), an exact score and many short steps at the last level sigma_L it tends to N(m,
    (tau^2 + sigma_L^2) I) whatever x is, and denoised to N(m, tau^4 / (tau^2 + sigma_L^2) I).

    Args:
        sigmas: Noise levels, decreasing: a `NoiseLevels` or an explicit list.
        step_size: Step at the last level, in squared pixel units (NCSNv2 for CIFAR-10: 6.2e-6).
        steps_per_level: Steps at every level (NCSNv2: 5).
        denoise: Whether the last state is denoised.
        seed: Stream `reverse`, one draw a step.

    Raises:
        ValueError: If the levels are not positive and decreasing, or a number is out of range.
    """

    streams = ("reverse",)

    def __init__(
        self,
        score_model: ScoreModel,
        sigmas: NoiseLevels | list[float] = NoiseLevels(first=0.1),  # noqa: B008 (an immutable value)
        step_size: float = 6.2e-6,
        steps_per_level: int = 5,
        denoise: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__(score_model, seed)
        self.sigmas = decreasing_levels("Langevin", sigmas)
        if not 0 < step_size < math.inf or steps_per_level < 1:
            raise ValueError(
                f"Langevin needs step_size above 0 and steps_per_level >= 1; got {step_size} and {steps_per_level}"
            )
        self.step_size, self.steps_per_level, self.denoise = step_size, steps_per_level, denoise

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        for level, sigma in enumerate(self.sigmas):
            step = self.step_size * (sigma / self.sigmas[-1]) ** 2
            for k in range(1, self.steps_per_level + 1):
                z = noise.draw("reverse", level * self.steps_per_level + k, 1, x)[0]
                (x,) = self.checkpointed(partial(self._step, sigma=sigma, step=step, z=z), x)
        if self.denoise:
            (x,) = self.checkpointed(self._denoise, x)
        return x

    def _step(self, x: Tensor, sigma: float, step: float, z: Tensor) -> tuple[Tensor]:
        return (langevin_step(self.score_model, x, sigma, step, z),)

    def _denoise(self, x: Tensor) -> tuple[Tensor]:
        return (self.score_model.denoise(x, self.sigmas[-1]),)
