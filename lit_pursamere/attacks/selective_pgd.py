"""PGD that follows the vulnerable draws of a stochastic view instead of the mean of all of them.

Reference: Wang, Fu, Han, Yang (NeurIPS 2024), "DiffHammer", the selective attack by expectation and maximisation.

    g_k, l_k = gradient and loss of draw k;   gain_k(r) = l_k + eps * direction(r) . g_k    (linearised over the ball)
    r = the g_a with the largest sum_k elu(gain_k(g_a))
    repeat:  w_k = sigmoid(sharpness * gain_k(r));   r = sum_k w_k g_k / sum_k w_k
    m = v * r + (1 - v) * m,  v = t^-memory at step t;   x_adv = project(x_adv + step_size * direction(m))
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks.gradients import draw_gradients
from lit_pursamere.attacks.iterative import PerImage
from lit_pursamere.attacks.pgd import PGD
from lit_pursamere.threat import over_images

__all__ = ["SelectivePGD"]


@dataclass(frozen=True)
class SelectivePGD(PGD):
    """PGD along a mean over the draws that weighs those most that can be broken together.

    The weights compare losses with 0, where `margin` turns to a misclassification; with `ce`, which is positive, they
    are nearly equal. All gradients of a step are held at once: eot * B images. All other settings are those of `PGD`.

    Args:
        rounds: Rounds of expectation and maximisation per step.
        sharpness: How sharply a draw counts as vulnerable or not (the reference's lambda).
        memory: Exponent with which earlier gradients fade, at least 0; at 0 none are kept (the reference's alpha).

    Raises:
        ValueError: If `eot_mode` is set.
    """

    rounds: int = 5
    sharpness: float = 5.0
    memory: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eot_mode != "grad_mean":
            raise ValueError(f"SelectivePGD weighs the draws itself; leave eot_mode out, got {self.eot_mode!r}")
        if self.rounds < 1:
            raise ValueError(f"SelectivePGD needs rounds >= 1; got {self.rounds}")
        for name in ("sharpness", "memory"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"SelectivePGD needs {name} >= 0; got {getattr(self, name)}")

    def init(self, x: Tensor, y: Tensor) -> PerImage:
        return super().init(x, y) | {"mean": torch.zeros_like(x), "number": torch.ones_like(y)}

    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: PerImage) -> tuple[PerImage, Tensor]:
        x_adv, number = state["x_adv"], state["number"]
        gradients, losses, wrong = draw_gradients(view, x_adv, y, self.eot, self.loss, self.eot_chunk)
        fresh = over_images(number.to(x_adv) ** -self.memory, x_adv)
        mean = fresh * self.select(gradients, losses) + (1 - fresh) * state["mean"]
        fooled = (wrong.sum(0) > self.eot / 2) & self.counts(x_adv, x)
        return {"x_adv": self.move(x_adv, x, mean), "mean": mean, "number": number + 1}, fooled

    def select(self, gradients: Tensor, losses: Tensor) -> Tensor:
        """The weighted mean (B, C, H, W) of the gradients (eot, B, C, H, W) of draws with these losses (eot, B)."""
        promise = torch.stack([F.elu(self._gain(g, gradients, losses)).sum(0) for g in gradients])
        chosen = gradients[promise.argmax(0), torch.arange(gradients.shape[1], device=gradients.device)]
        for _ in range(self.rounds):
            weights = torch.sigmoid(self.sharpness * self._gain(chosen, gradients, losses))
            weights = weights / weights.sum(0).clamp_min(torch.finfo(weights.dtype).tiny)
            chosen = (weights.reshape(*weights.shape, *[1] * (chosen.ndim - 1)) * gradients).sum(0)
        return chosen

    def _gain(self, toward: Tensor, gradients: Tensor, losses: Tensor) -> Tensor:
        """Loss of every draw, (eot, B), that a step of length eps along `toward` (B, C, H, W) promises."""
        direction = self.budget.ascent_direction(toward)
        return losses + self.budget.eps * (direction * gradients).flatten(2).sum(2)
