"""Purifiers that a classifier guides: toward what it is already confident of.

    guidance(u) = lam grad_u log max_y p(y | (u + 1) / 2)        u = 2 x - 1, the best class picked anew at every step

Reference: Zhang, Li, Chen, Guo, Cheng (2024), "Classifier Guidance Enhances Diffusion-Based Adversarial Purification by
Preserving Predictive Information", ECAI, eq. 1.
"""

from __future__ import annotations

import copy
import math
from typing import Any

from torch import Tensor, nn

from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.purifiers.base import Purifier
from lit_pursamere.store.manifest import setting_of

__all__ = ["ClassifierGuided"]


class ClassifierGuided(Purifier):
    """A purifier that follows the confidence of a classifier, its own or that of the defence.

    Args:
        score_model: Knows the noise in noisy images.
        classifier: Maps images (B, C, H, W) in [0, 1] to logits (B, K). None: that of the defence.
        lam: Weight lambda of the guidance, at least 0. 0: no classifier.
        seed: Of draws that an attacker knows.

    Raises:
        ValueError: If lam is out of range.
    """

    classifier: Any  # a module, or None

    def __init__(self, score_model: ScoreModel, classifier: nn.Module | None, lam: float, seed: int) -> None:
        super().__init__(score_model, seed)
        if not 0 <= lam < math.inf:
            raise ValueError(f"{type(self).__name__} needs lam >= 0; got {lam}")
        self.register_module("classifier", classifier)
        self.lam = lam

    def in_front_of(self, classifier: nn.Module) -> ClassifierGuided:
        if self.classifier is not None:
            return self
        other = copy.copy(self)
        other._modules = {**self._modules, "classifier": classifier}
        other._arguments = {**self._arguments, "classifier": setting_of(classifier)}
        other._networks = {*self._networks, "classifier"}
        return other

    def require_guide(self) -> None:
        """Refuse guidance without a classifier.

        Raises:
            ValueError: If there is none.
        """
        if self.lam > 0 and self.classifier is None:
            name = type(self).__name__
            raise ValueError(f"{name} is guided by a classifier: give it to a `Defense`, or name its own `classifier`")

    def guidance(self, u: Tensor) -> Tensor | float:
        """Gradient by centred pixels (B, C, H, W), where the best class counts as given, times lam."""
        if self.lam == 0:
            return 0.0
        _, g = self.gradient(lambda u: self.classifier((u + 1) / 2).log_softmax(1).max(1).values, u)
        return self.lam * g
