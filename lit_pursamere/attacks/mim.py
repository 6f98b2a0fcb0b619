"""Momentum iterative method: PGD along a running sum of gradients.

Reference: Dong et al. (2018), "Boosting Adversarial Attacks with Momentum", Algorithm 1.

    g = mu * g + grad / ||grad||_1
    x_adv = project(x_adv + step_size * direction(g), ball(x, eps) and box)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.iterative import PerImage
from lit_pursamere.attacks.pgd import PGD
from lit_pursamere.threat import image_norm, over_images

__all__ = ["MIM"]


@dataclass(frozen=True)
class MIM(PGD):
    """PGD with momentum, per image; all other settings are those of `PGD`.

    Args:
        mu: Share of the summed gradients that the next step keeps, at least 0. At 0 it is PGD.
    """

    mu: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.mu < math.inf:
            raise ValueError(f"MIM needs mu >= 0; got {self.mu}")

    def init(self, x: Tensor, y: Tensor) -> PerImage:
        return super().init(x, y) | {"g": torch.zeros_like(x)}

    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: PerImage) -> tuple[PerImage, Tensor]:
        x_adv = state["x_adv"]
        gradient, wrong = self.gradient(view, x_adv, y)
        g = self.mu * state["g"] + unit_l1(gradient)
        return {"x_adv": self.move(x_adv, x, g), "g": g}, wrong & self.counts(x_adv, x)


def unit_l1(gradient: Tensor) -> Tensor:
    """Every image's gradient divided by its l1 norm; 0 where it is 0."""
    tiny = torch.finfo(gradient.dtype).tiny
    # By the largest entry first: sums of huge gradients leave the range of float32.
    gradient = gradient / over_images(image_norm(gradient, "linf"), gradient).clamp_min(tiny)
    return gradient / over_images(image_norm(gradient, "l1"), gradient).clamp_min(tiny)
