"""MagNet's other detectors: by what the classifier says of an image and of its reconstruction, and several at once.

Reference: Meng and Chen (2017), "MagNet: a Two-Pronged Defense against Adversarial Examples", sections 4.1.2, 5.1.

    JSD(p, q) = KL(p, m) / 2 + KL(q, m) / 2,  m = (p + q) / 2,  p = softmax(l(x) / T),  q = softmax(l(r(x)) / T)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lit_pursamere.defense.detectors import Detector, check_variance
from lit_pursamere.diffusion import ScoreModel

__all__ = ["AnyDetector", "JensenShannon"]


class JensenShannon(Detector):
    """Divergence of the classifier's answers to an image and to its reconstruction, in nats: 0 to ln 2.

    Args:
        score_model: Its `denoise` is r; frozen here.
        classifier: Gives the logits l, (B, K); frozen here.
        temperature: T, above 0 (MagNet: one detector of 10 and one of 40, for CIFAR-10).
        sigma2: Variance of the noise that r removes, in squared pixel units (MagNet: 0.000625 for CIFAR-10).
        fpr: See `Detector`.
        threshold: See `Detector`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        score_model: ScoreModel,
        classifier: nn.Module,
        temperature: float = 10.0,
        sigma2: float = 0.000625,
        fpr: float | None = 0.05,
        threshold: float | None = None,
    ) -> None:
        super().__init__(fpr, threshold)
        if not 0 < temperature < math.inf:
            raise ValueError(f"JensenShannon needs a temperature above 0; got {temperature}")
        self.temperature, self.sigma2 = temperature, check_variance("JensenShannon", sigma2)
        self.score_model, self.classifier = score_model, classifier
        self.requires_grad_(False).train(False)

    def statistic(self, x: Tensor) -> Tensor:
        reformed = self.score_model.denoise(x, self.sigma2**0.5)
        p, q = (torch.log_softmax(self.classifier(each) / self.temperature, 1) for each in (x, reformed))
        m = torch.logaddexp(p, q) - math.log(2)
        return ((p.exp() * (p - m) + q.exp() * (q - m)) / 2).sum(1)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, sigma2={self.sigma2:g}, {super().extra_repr()}"


class AnyDetector(Detector):
    """Rejects what any of several detectors rejects; its statistic is the largest of theirs over their thresholds.

    Every detector is calibrated by its own fpr, so that at most the sum of them is rejected of clean images.

    Args:
        detectors: At least one.

    Raises:
        ValueError: If there is none.
    """

    def __init__(self, detectors: list[Detector]) -> None:
        nn.Module.__init__(self)
        if not detectors:
            raise ValueError("AnyDetector needs at least one detector; got none")
        self.fpr = None
        self.detectors: Any = nn.ModuleList(detectors)  # for torch they are mere modules

    @property
    def threshold(self) -> Any:
        """Thresholds of the detectors, in their order; None while one lacks its own."""
        found = [detector.threshold for detector in self.detectors]
        return None if None in found else found

    @threshold.setter
    def threshold(self, values: Any) -> None:
        given = values if isinstance(values, list) else [values] * len(self.detectors)
        for detector, value in zip(self.detectors, given, strict=True):
            detector.threshold = value

    def calibrate(self, images: Tensor, batch_size: int = 256) -> Any:
        """Calibrate the detectors that lack a threshold, see `Detector.calibrate`; returns all thresholds.

        Raises:
            ValueError: If a detector cannot be calibrated, or a threshold is not above 0.
        """
        for detector in self.detectors:
            if not detector.calibrated:
                detector.calibrate(images, batch_size)
            if not detector.threshold > 0:
                raise ValueError(f"AnyDetector needs thresholds above 0; got {detector}: leave it out")
        return self.threshold

    def statistic(self, x: Tensor) -> Tensor:
        if not self.calibrated:
            raise ValueError(f"{self} has no threshold: call calibrate(clean images) first, or give each one")
        return torch.stack([detector.statistic(x) / detector.threshold for detector in self.detectors]).amax(0)

    def verdict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        statistic = self.statistic(x)
        return statistic, ~(statistic <= 1)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.detectors))

    def __str__(self) -> str:
        return f"AnyDetector({self.extra_repr()})"
