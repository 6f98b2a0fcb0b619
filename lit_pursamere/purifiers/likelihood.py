"""Likelihood maximisation: gradient steps on the image that lower its expected reconstruction error.

Reference: Chen, Dong, Wang, Yang, Duan, Su, Zhu (2023), "Robust Classification via a Single Diffusion Model".

    repeat 5 times:  t ~ U(0.4, 0.6) for centred pixels, sigma = t / 2, xi one draw
        g = grad of (4 sigma^2 / d) R(x; sigma), the mean squared error of the denoised image in centred pixels
            - lam grad log max_y p(y | x) in centred pixels, where a classifier guides
        x = project(adam_step(x, g, lr), ball(x_adv, rho))

Guidance: Zhang et al. (2024), section 5.2.1; see `guided`.
"""

from __future__ import annotations

import math
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion import NoiseSource, ScoreModel, expected_reconstruction_error
from lit_pursamere.diffusion.score_model import per_image
from lit_pursamere.purifiers.guided import ClassifierGuided
from lit_pursamere.purifiers.pursamere import adam_step
from lit_pursamere.threat import image_norm, over_images

__all__ = ["LikelihoodMaximisation"]


class LikelihoodMaximisation(ClassifierGuided):
    """PurSAMERE's objective without annealing, sharpness and box: a few Adam steps at one moderate level.

    Costs `steps` network evaluations with their input gradients, as many Gaussians and as many uniforms; guided, as
    many of the classifier. How COUP's paper weighs its guidance against the likelihood it does not say: here lam stands
    beside the mean over the pixels, which it outweighs at 1, for Adam sees little more than the direction.

    For Gaussian images N(m, tau^2 I) and an exact score a draw's gradient vanishes at m + tau^2 xi / sigma: many short
    steps lead to the mean m and forget the distribution of the images.

    Args:
        score_model: The paper: EDM's unconditional network.
        steps: Adam steps.
        lr: Adam's learning rate in pixel units (paper: 0.1, centred).
        sigma_min: Lower end of the random level in pixel units (paper: 0.4, centred).
        sigma_max: Upper end (paper: 0.6, centred).
        rho: Radius of the search ball in l2 pixel units (paper: 200, centred; never reached by 5 steps on CIFAR-10).
        classifier: Maps images (B, C, H, W) in [0, 1] to logits (B, K); it sees the states, which may leave the box.
            None: that of the defence.
        lam: Weight lambda of the guidance by it (COUP's paper: 1). 0: no classifier.
        seed: Seed (paper: 1, at every call). Stream `level`: the noise, and a
            second draw whose first pixel chooses the level.

    Raises:
        ValueError: If the levels are not ordered, or a number is out of range.
    """

    streams, knowledge = ("level",), "fixed"

    def __init__(
        self,
        score_model: ScoreModel,
        steps: int = 5,
        lr: float = 0.05,
        sigma_min: float = 0.2,
        sigma_max: float = 0.3,
        rho: float = 100.0,
        classifier: nn.Module | None = None,
        lam: float = 0.0,
        seed: int = 1,
    ) -> None:
        super().__init__(score_model, classifier, lam, seed)
        if steps < 1 or not 0 < lr < math.inf or not 0 <= rho < math.inf:
            raise ValueError(
                f"LikelihoodMaximisation needs steps >= 1, lr > 0 and rho >= 0; got {steps}, {lr} and {rho}"
            )
        if not 0 < sigma_min <= sigma_max < math.inf:
            raise ValueError(f"LikelihoodMaximisation needs 0 < sigma_min <= sigma_max; got {sigma_min}, {sigma_max}")
        self.steps, self.lr, self.sigma_min, self.sigma_max, self.rho = steps, lr, sigma_min, sigma_max, rho

    def in_front_of(self, classifier: nn.Module) -> LikelihoodMaximisation:
        return cast(LikelihoodMaximisation, super().in_front_of(classifier)) if self.lam > 0 else self

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        self.require_guide()
        x_adv = x
        mean = square = torch.zeros_like(x)
        for k in range(1, self.steps + 1):
            xi, chance = noise.draw("level", k, 2, x)
            uniform = torch.special.ndtr(chance.flatten(1)[:, 0])  # of a Gaussian, so that it follows the image
            sigma = (self.sigma_min + (self.sigma_max - self.sigma_min) * uniform).expand(len(x))
            step = partial(self._step, k=k, sigma=sigma, xi=xi[None])
            x, mean, square = self.checkpointed(step, x, mean, square, x_adv)
        return x

    def _step(
        self, x: Tensor, mean: Tensor, square: Tensor, x_adv: Tensor, k: int, sigma: Tensor, xi: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        error = partial(expected_reconstruction_error, self.score_model, sigma=sigma, noise=xi)
        _, g = self.gradient(error, x)
        g = 2 * per_image(sigma, x) ** 2 / math.prod(x.shape[1:]) * g  # by centred pixels: half of the one by pixels
        g = g - self.guidance(2 * x - 1)
        step, mean, square = adam_step(g, mean, square, k, self.lr)
        delta = x - step - x_adv
        length = over_images(image_norm(delta, "l2"), x).clamp_min(1e-12)
        return x_adv + delta * (self.rho / length).clamp_max(1), mean, square
