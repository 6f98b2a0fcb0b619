"""Detectors: a number that tells how unlike the data an image is; images above a threshold are rejected.

References: Srinivasan et al. (2021), "Robustifying Models Against Adversarial Attacks by Langevin Dynamics", eq. 13;
Meng and Chen (2017), "MagNet: a Two-Pronged Defense against Adversarial Examples", section 4.1.

    threshold = the (1 - fpr) quantile of statistic(x) over clean images that nothing was trained on
    reject x if statistic(x) > threshold
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.threat import image_norm

__all__ = ["Detector", "ReconstructionNorm", "ScoreNorm"]


class Detector(nn.Module, ABC):
    """Statistic of an image; above the threshold the image is rejected. Frozen, in evaluation mode for good.

    Args:
        fpr: Share of clean images, in (0, 1), that `calibrate` lets the detector reject. None if a threshold is given.
        threshold: Used as it is; the false positive rate then does not count. None: `calibrate` finds it.

    Raises:
        ValueError: If there is neither of them, or a number is out of range.
    """

    def __init__(self, fpr: float | None = 0.05, threshold: float | None = None) -> None:
        super().__init__()
        name = type(self).__name__
        if threshold is None and (fpr is None or not 0 < fpr < 1):
            raise ValueError(f"{name} needs a threshold, or an fpr in (0, 1) to find one by; got fpr={fpr}")
        if threshold is not None and not math.isfinite(threshold):
            raise ValueError(f"{name} needs a finite threshold; got {threshold}")
        self.fpr, self.threshold = fpr if threshold is None else None, threshold

    @abstractmethod
    def statistic(self, x: Tensor) -> Tensor:
        """How unlike the data images (B, C, H, W) in [0, 1] are, (B,): differentiable, image by image."""

    @property
    def calibrated(self) -> bool:
        """Whether there is a threshold."""
        return self.threshold is not None

    @torch.no_grad()
    def calibrate(self, images: Tensor, batch_size: int = 256) -> float:
        """Set the threshold to the (1 - fpr) quantile of the statistic on clean images.

        Args:
            images: Clean images (N, C, H, W) in [0, 1], not those that are tested, N >= 1 / fpr.
            batch_size: Images per forward pass.

        Returns:
            The threshold, one of the N values; at most fpr N of them lie above.

        Raises:
            ValueError: If the threshold was given, there are too few images, or the statistic is not finite.
        """
        name = type(self).__name__
        if self.fpr is None:
            raise ValueError(f"{name} was given its threshold {self.threshold:g}; leave it out to calibrate by an fpr")
        if len(images) * self.fpr < 1 - 1e-9:
            raise ValueError(
                f"{name} cannot find an fpr of {self.fpr:g} with {len(images)} images: give it at least "
                f"{math.ceil(1 / self.fpr - 1e-9)}, or raise the fpr"
            )
        values = torch.cat([self.statistic(batch) for batch in images.split(batch_size)]).double()
        if not values.isfinite().all():
            raise ValueError(f"the statistic of {name} is not finite on a clean image; look for NaN in its network")
        self.threshold = float(values.quantile(1 - self.fpr, interpolation="higher"))
        return self.threshold

    def verdict(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The statistic of images (B, C, H, W) in [0, 1], (B,), and which of them are rejected, (B,) bool.

        Raises:
            ValueError: If there is no threshold yet.
        """
        if self.threshold is None:
            raise ValueError(f"{self} has no threshold: call calibrate(clean images) first, or give it one")
        statistic = self.statistic(x)
        return statistic, ~(statistic <= self.threshold)  # NaN is rejected too

    def rejects(self, x: Tensor) -> Tensor:
        """Which images are rejected, see `verdict`."""
        return self.verdict(x)[1]

    def train(self, mode: bool = True) -> Detector:
        return super().train(False)

    def extra_repr(self) -> str:
        told = {"threshold": self.threshold, "fpr": self.fpr}
        return ", ".join(f"{key}={value if value is None else f'{value:g}'}" for key, value in told.items())

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def check_variance(name: str, sigma2: float) -> float:
    if not 0 < sigma2 < math.inf:
        raise ValueError(f"{name} needs a variance sigma2 above 0; got {sigma2}")
    return sigma2


class ScoreNorm(Detector):
    """Norm of the score, ||r(x) - x||_2 / sigma^2: clean images lie where the density is flat (MALADE, eq. 13).

    The score norm by which ADP chooses its noise is the same number, times sigma, with NCSNv2 as the score model.

    Args:
        score_model: Its `score` is (r(x) - x) / sigma^2; frozen here.
        sigma2: Variance sigma^2 of the noise that r removes, in squared pixel units (MALADE: 0.15 for MNIST).
        fpr: See `Detector`.
        threshold: See `Detector`; in inverse pixel units.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        score_model: ScoreModel,
        sigma2: float = 0.15,
        fpr: float | None = 0.05,
        threshold: float | None = None,
    ) -> None:
        super().__init__(fpr, threshold)
        self.sigma2 = check_variance("ScoreNorm", sigma2)
        self.score_model = score_model
        self.requires_grad_(False).train(False)

    def statistic(self, x: Tensor) -> Tensor:
        return image_norm(self.score_model.score(x, self.sigma2**0.5), "l2")

    def extra_repr(self) -> str:
        return f"sigma2={self.sigma2:g}, {super().extra_repr()}"


class ReconstructionNorm(Detector):
    """Mean over the pixels of |x - r(x)|^p, MagNet's detector by reconstruction error.

    MagNet rejects what any of several detectors rejects, see `magnet.AnyDetector`; this is one of them.

    Args:
        score_model: Its `denoise` is r; frozen here.
        p: 1, or 2 as MagNet has it for the autoencoder that also reforms.
        sigma2: Variance of the noise that r removes, in squared pixel units (MagNet: 0.01 for MNIST).
        fpr: See `Detector`. MagNet lets every detector reject 0.001, which takes 1,000 images to calibrate.
        threshold: See `Detector`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        score_model: ScoreModel,
        p: Literal[1, 2] = 2,
        sigma2: float = 0.01,
        fpr: float | None = 0.05,
        threshold: float | None = None,
    ) -> None:
        super().__init__(fpr, threshold)
        if p not in (1, 2):
            raise ValueError(f"ReconstructionNorm needs p 1 or 2; got {p}")
        self.p, self.sigma2 = p, check_variance("ReconstructionNorm", sigma2)
        self.score_model = score_model
        self.requires_grad_(False).train(False)

    def statistic(self, x: Tensor) -> Tensor:
        return (x - self.score_model.denoise(x, self.sigma2**0.5)).abs().pow(self.p).flatten(1).mean(1)

    def extra_repr(self) -> str:
        return f"p={self.p}, sigma2={self.sigma2:g}, {super().extra_repr()}"
