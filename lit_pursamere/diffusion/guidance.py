"""Noise that follows an attack: what trainings ask of a frozen classifier and of the score model at hand.

error(noise) = CE(classifier(denoise(x + sigma noise, sigma)), y)          with a classifier
               mean over the pixels of (noise - xi_hat)^2                  without one: the error trained on itself
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.diffusion.objectives import Objective
from lit_pursamere.diffusion.reconstruction import noise_residual
from lit_pursamere.diffusion.score_model import ScoreModel, per_image
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights import state_digest

__all__ = ["Guided", "evaluating", "sign_ascent"]


@dataclass(frozen=True)
class Guided(Objective):
    """An objective that asks a classifier, which it freezes: no part of the task, so neither trained, averaged, put
    into train mode nor saved with it. Cards tell its digest.

    Args:
        classifier: From images (B, C, H, W) in [0, 1] to logits (B, K). None: noise follows the error that is trained
            on, without labels.
    """

    classifier: nn.Module | None = field(kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.classifier is not None:
            self.classifier.requires_grad_(False).eval()

    @property
    @abstractmethod
    def training(self) -> str:
        """What it makes of a score model, by the name that published numbers have for it."""

    def facts(self) -> dict[str, object]:
        return {**super().facts(), "training": self.training, "guided_by": self.guide}

    @cached_property
    def guide(self) -> str | None:
        """The classifier in words, with the digest of its weights."""
        if self.classifier is None:
            return None
        return f"{type(self.classifier).__name__}, sha256 {state_digest(self.classifier)}"

    def cross_entropy(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Cross-entropy of images (B, C, H, W) under the classifier, (B,).

        Raises:
            ValueError: If there are no labels.
        """
        if labels is None or self.classifier is None:
            raise ValueError(f"{type(self).__name__} asks a classifier: it needs one, and the labels of the images")
        classifier = self.classifier.to(x.device)
        weight = next(classifier.parameters(), x)
        return F.cross_entropy(classifier(x.to(weight.dtype)), labels, reduction="none")

    def error(self, score_model: ScoreModel, x: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
        """What the noise (B, C, H, W) is to raise, (B,), see above."""
        if self.classifier is None:
            return noise_residual(score_model, x, sigma, noise.unsqueeze(0))[0].square().flatten(1).mean(1)
        return self.cross_entropy(score_model.denoise(x + per_image(sigma, x) * noise, sigma), labels)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A module in evaluation mode; every part gets its own mode back."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def sign_ascent(
    threat: ThreatModel, x: Tensor, start: Tensor, step_size: float, steps: int, error: Callable[[Tensor], Tensor]
) -> Tensor:
    """Steps of fixed length up an error, within a threat model.

    Args:
        threat: Where attacked images may lie.
        x: Images (B, C, H, W) in [0, 1].
        start: Attacked images, feasible.
        step_size: Length of a step in pixel units.
        steps: How many.
        error: Of perturbations (B, C, H, W), one number each (B,).

    Returns:
        Perturbations (B, C, H, W) in pixel units.
    """
    attacked = start
    for _ in range(steps):
        delta = (attacked - x).detach().requires_grad_()
        (slope,) = torch.autograd.grad(error(delta).sum(), delta)
        attacked = threat.project(attacked + step_size * threat.ascent_direction(slope), x)
    return (attacked - x).detach()
