"""A defence: purify, then classify. The object attacked is the object judged.

    gray         the attacker sees the classifier alone
    bpda         values of the defence, gradient as if the purifier were the identity (Athalye et al., 2018, 4.1)
    first_order  values of the defence, gradient without the curvature inside: gradients that the purifier takes itself
                 count as constants
    exact        values and gradient of the defence through every purification step; each step is computed a second time
                 on the way back, so memory does not grow with their number

Views are what attackers differentiate; verdicts always come from the defence itself.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from lit_pursamere.diffusion.noise import NoiseSource
from lit_pursamere.purifiers.base import Purifier
from lit_pursamere.threat import GRADIENTS, Gradient

__all__ = ["Defense"]


class Defense(nn.Module):
    """Classifier behind a purifier; frozen and in evaluation mode for good.

    Args:
        purifier: Maps images to images in [0, 1].
        classifier: Maps images (B, C, H, W) in [0, 1] to logits (B, K).
    """

    def __init__(self, purifier: Purifier, classifier: nn.Module) -> None:
        super().__init__()
        self.purifier, self.classifier = purifier, classifier
        self.requires_grad_(False).train(False)

    def train(self, mode: bool = True) -> Defense:
        return super().train(False)

    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """Logits (B, K) of the purified images."""
        return self.classifier(self.purifier(x, noise))

    def view(self, gradient: Gradient) -> nn.Module:
        """The module x -> logits that an attacker with this knowledge differentiates.

        Raises:
            ValueError: If the view is unknown.
        """
        if gradient == "gray":
            return self.classifier
        if gradient == "bpda":
            return StraightThrough(self)
        if gradient == "first_order":
            purifier = copy.copy(self.purifier)  # the same weights under another setting
            purifier.first_order = True
            return Defense(purifier, self.classifier)
        if gradient == "exact":
            return self
        raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}; got {gradient!r}")


class StraightThrough(nn.Module):
    """The defence with the identity as the purifier's derivative."""

    def __init__(self, defense: Defense) -> None:
        super().__init__()
        self.defense = defense

    def forward(self, x: Tensor) -> Tensor:
        purified = self.defense.purifier(x.detach()).detach()
        return self.defense.classifier(purified + (x - x.detach()))  # adds an exact zero that carries the gradient
