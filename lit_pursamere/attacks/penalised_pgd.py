"""PGD with a second aim: images that fool, and on which a penalty of the attacker's choice is small.

`ReconstructionPGD` and `DetectorPGD` say what the penalty is.

    repeat:  g = grad CE(view(x_adv), y) - weight * grad penalty(x_adv)
             x_adv = project(x_adv + step_size * direction(g), ball(x, eps) and box)
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from lit_pursamere.attacks.pgd import PGD

__all__ = ["PenalisedPGD"]


@dataclass(frozen=True)
class PenalisedPGD(PGD):
    """Base of PGD on the loss minus a multiple of a penalty; all other settings are those of `PGD`.

    Args:
        weight: Factor of the penalty. Positive: stay where it is small. Negative: go where it is large. 0 is PGD.

    Raises:
        ValueError: If `eot_mode` is `sign_vote`, whose votes have no common unit with a penalty.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.weight):
            raise ValueError(f"{type(self).__name__} needs a finite weight; got {self.weight}")
        if self.eot_mode == "sign_vote":
            raise ValueError(f"{type(self).__name__} adds gradients, which eot_mode {self.eot_mode!r} does not give")

    @abstractmethod
    def penalty_gradient(self, x: Tensor) -> Tensor:
        """Gradient of every image's penalty with respect to that image, (B, C, H, W)."""

    def gradient(self, view: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        gradient, wrong = super().gradient(view, x_adv, y)
        return (gradient - self.weight * self.penalty_gradient(x_adv) if self.weight else gradient), wrong
