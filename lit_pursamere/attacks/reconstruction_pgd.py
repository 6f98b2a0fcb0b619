"""Attack with the reconstruction error in mind: images that fool, and that the purifier sees no reason to move.

Reference: R+PGD of the MALADE paper maximises CE - w * |r(x) - x|^2 for one reconstruction r; here r becomes the
expected reconstruction error R of PurSAMERE, eq. (16), at several noise levels.

    repeat:  g = grad CE(view(x_adv), y) - weight * grad mean_sigma R(x_adv; sigma) / d
             x_adv = project(x_adv + step_size * direction(g), ball(x, eps) and box)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_pursamere.attacks.penalised_pgd import PenalisedPGD
from lit_pursamere.attacks.transfer import identify
from lit_pursamere.diffusion import NoiseLevels, ScoreModel, SeededNoise, expected_reconstruction_error

__all__ = ["ReconstructionPGD"]


@dataclass(frozen=True)
class ReconstructionPGD(PenalisedPGD):
    """PGD on the loss minus a multiple of the expected reconstruction error; all other settings are those of `PGD`.

    With the score model, levels, number of draws and seed of a PurSAMERE, it knows the very function that the purifier
    minimises.

    Args:
        score_model: Estimates the noise in noisy images; frozen here.
        weight: Factor of R per pixel, averaged over the levels. Positive: stay where R is small, which the purifier
            leaves alone. Negative: go where R is large. 0 is PGD.
        sigmas: Noise levels in pixel units, a `NoiseLevels` or an explicit list.
        draws: Noise draws per level.
        noise_seed: Seed of the draws, the same for every image and step.
    """

    score_model: ScoreModel = field(kw_only=True, repr=False, compare=False)
    sigmas: NoiseLevels | list[float] = NoiseLevels(first=1.0, stride=25)  # noqa: RUF009 (an immutable value)
    draws: int = 4
    noise_seed: int = 0
    score_id: str = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        sigmas = self.sigmas.values if isinstance(self.sigmas, NoiseLevels) else self.sigmas
        object.__setattr__(self, "sigmas", tuple(sigmas))
        if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas):
            raise ValueError(f"ReconstructionPGD needs positive sigmas; got {list(sigmas)}")
        if self.draws < 1:
            raise ValueError(f"ReconstructionPGD needs draws >= 1; got {self.draws}")
        SeededNoise(self.noise_seed)
        self.score_model.requires_grad_(False).eval()
        object.__setattr__(self, "score_id", identify(self.score_model))

    def penalty_gradient(self, x: Tensor) -> Tensor:
        return self.error_gradient(x) / x[0].numel()

    def error_gradient(self, x: Tensor) -> Tensor:
        """Gradient of R, averaged over the levels, (B, C, H, W)."""
        model, noise = self.score_model.to(x.device), SeededNoise(self.noise_seed)
        x, total = x.detach().requires_grad_(), torch.zeros_like(x)
        sigmas: Any = self.sigmas  # a tuple of numbers by now
        for k, sigma in enumerate(sigmas, start=1):
            xi = noise.draw("level", k, self.draws, x)
            total += torch.autograd.grad(expected_reconstruction_error(model, x, sigma, xi).sum(), x)[0]
        return total / len(sigmas)
