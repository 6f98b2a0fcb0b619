"""The supervised denoising autoencoder (sDAE), whose residual is a score that knows the classes: MALADE's denoiser.

Reference: Srinivasan et al. (2021), "Robustifying Models Against Adversarial Attacks by Langevin Dynamics", eq. 8.

    loss = sum over the pixels of (r(x + nu) - x)^2 + 2 sigma2 CE(classifier(r(x + nu)), y),    nu ~ N(0, sigma2 I)
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lit_pursamere.diffusion.guidance import Guided
from lit_pursamere.diffusion.objectives import DAEObjective
from lit_pursamere.diffusion.score_model import per_image

__all__ = ["SDAEObjective"]


@dataclass(frozen=True)
class SDAEObjective(DAEObjective, Guided):
    """Denoising at a single level, towards images that a frozen classifier recognises; noisy images are not clipped.

    Args:
        classifier: Frozen; from images (B, C, H, W) in [0, 1] to logits (B, K).
        sigma2: Variance of the noise in squared pixel units, see `DAEObjective`; the weight of the cross-entropy is
            twice that against a sum over the pixels.
        alpha: Langevin step of the samples in squared pixel units.
        steps: Langevin steps of the samples.

    Raises:
        ValueError: If there is no classifier, or a number is out of range.
    """

    def __post_init__(self) -> None:
        DAEObjective.__post_init__(self)
        Guided.__post_init__(self)
        if self.classifier is None:
            raise ValueError("SDAEObjective needs a classifier; without one, DAEObjective is meant")

    @property
    def training(self) -> str:
        return "sdae"

    def loss(self, residual: Tensor, sigma: Tensor, x: Tensor, labels: Tensor | None) -> Tensor:
        denoised = x + per_image(sigma, x) * residual
        return super().loss(residual, sigma, x, labels) + 2 * sigma**2 * self.cross_entropy(denoised, labels)
