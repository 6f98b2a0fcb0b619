"""Whether a purifier asks its score model at noise levels that it was trained at.

a copy of the purifier runs on a corner of an image, and a multiplication stands for every network and notes sigma
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from lit_pursamere.diffusion import AutoencoderScore, ScoreModel
from lit_pursamere.estimate.calls import StandIn, StandInClassifier
from lit_pursamere.evaluation.calls import networks_of
from lit_pursamere.preflight.examined import Doubt, Examined
from lit_pursamere.purifiers import Purifier

__all__ = ["asked_levels", "levels"]

SLACK = 1.05  # how far beyond its levels a network still knows the noise
CORNER = 8  # pixels; levels do not depend on the size of images


class Noting(StandIn):
    """A stand-in that notes at which levels the noise is asked for.

    Args:
        free: Whether the score model denoises at any level.
    """

    def __init__(self, free: bool) -> None:
        super().__init__()
        self.free, self.asked = free, list[float]()

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        self.asked += torch.as_tensor(sigma).flatten().tolist()
        return super().forward(y, sigma)

    def denoise(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.9 * y if self.free else super().denoise(y, sigma)


def levels(examined: Examined) -> list[Doubt]:
    """Doubts about the levels of purifier and surrogate."""
    found: list[Doubt] = []
    for purifier in (examined.defense.purifier, examined.defense.surrogate):
        if purifier is not None:
            asked = asked_levels(purifier, examined.x[:1], examined.logits.shape[1])
            found += [
                Doubt(what, refuses(network, examined.x[:1], at))
                for network, at in asked
                if (what := beyond(purifier, network, at))
            ]
    return found


def asked_levels(purifier: Purifier, x: Tensor, classes: int) -> list[tuple[ScoreModel, list[float]]]:
    """The score models of a purifier, each with the levels at which it is asked about the image x, (1, C, H, W)."""
    networks = networks_of(purifier).values()
    noting = {id(n): Noting(isinstance(n, AutoencoderScore)) for n in networks if isinstance(n, ScoreModel)}
    others = {id(n): StandInClassifier(classes) for n in networks if not isinstance(n, ScoreModel)}
    cheap = copy.deepcopy(purifier, {**noting, **others})
    try:
        with torch.no_grad():
            cheap(x[:, :, :CORNER, :CORNER])
    except Exception:  # a purifier of somebody's own, which asks more of its networks than a score model has
        return []
    return [(n, noting[id(n)].asked) for n in networks if isinstance(n, ScoreModel)]


@torch.no_grad()
def refuses(score_model: ScoreModel, x: Tensor, asked: list[float]) -> bool:
    """Whether a score model does not answer at the ends of these levels."""
    try:
        for sigma in (max(asked), min(asked)):
            score_model.predict_noise(x, sigma)
    except ValueError:
        return True
    return False


def beyond(purifier: Purifier, score_model: ScoreModel, asked: list[float]) -> str | None:
    """What to set if levels are not those that the score model was trained at; None: they are."""
    low, high = score_model.trained_at
    if not asked or high == math.inf:
        return None
    top, bottom, name = max(asked), min(asked), type(purifier).__name__
    below = sum(level < low / SLACK for level in asked) > len(asked) / 2
    if top <= high * SLACK and not below:
        return None
    mend = f"let it start at {high:.3g} or lower" if top > high * SLACK else f"let it end at {low:.3g} or higher"
    return (
        f"{name} asks at noise from sigma {top:.3g} to {bottom:.3g}, and the weights of {type(score_model).__name__} "
        f"were trained from {high:.3g} to {low:.3g}: {mend} (its sigmas, sigma or t_star), or take other weights"
    )
