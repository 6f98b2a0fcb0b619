"""A denoising autoencoder as a score model: it knows one noise level, the one that it was trained at.

Reference: Srinivasan et al. (2021), "Robustifying Models Against Adversarial Attacks by Langevin Dynamics", eqs. 4, 5.

    denoise(y) = r(y);    xi_hat(y) = (y - r(y)) / sigma;    score(y) = (r(y) - y) / sigma^2       (sigma^2 = sigma2)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion.score_model import Denoiser
from lit_pursamere.diffusion.wrappers import prepared
from lit_pursamere.host import note

__all__ = ["AutoencoderScore"]

SAME_LEVEL = 0.01  # relative; levels come rounded, as square roots of variances or in half precision


class AutoencoderScore(Denoiser):
    """Any network r from noisy to clean images, trained at a single noise level.

    `denoise` is r at whatever sigma it is asked for: MagNet and MALADE use r as a map of images. `predict_noise` and
    `score` are estimates for the trained level and nothing is known about others, so there they refuse: a purifier that
    needs several levels needs another score model.

    Args:
        network: Maps images (B, C, H, W) to images of that shape, both in [0, 1] up to noise.
        sigma2: Variance of the noise that the network was trained to remove, in squared pixel units (MALADE: 0.15 for
            MNIST, 0.1 for ImageNet; MagNet: 0.01 for MNIST, 0.000625 for CIFAR-10).
        checkpoint: Weight file for the network, see `weights.load_weights`. None: the weights that it has.
        weights: Which of the two sets that a training checkpoint holds, `ema` or `raw`.

    Raises:
        ValueError: If sigma2 is not a number above 0.
    """

    def __init__(
        self, network: nn.Module, sigma2: float = 0.15, checkpoint: str | None = None, weights: str = "ema"
    ) -> None:
        super().__init__()
        if not 0 < sigma2 < math.inf:
            raise ValueError(f"AutoencoderScore needs a variance sigma2 above 0; got {sigma2}")
        self.settings: dict[str, object] = {"sigma2": sigma2}
        self.network, _ = prepared(network, checkpoint, weights, self.settings)
        self.sigma2, self._trained_at = sigma2, (sigma2**0.5, sigma2**0.5)

    def extra_repr(self) -> str:
        return f"sigma2={self.sigma2:g}"

    def forward(self, y: Tensor, sigma: float | Tensor, clean: bool = False) -> Tensor:
        """Estimate xi from y = x + sigma * xi, or with `clean` r(y), whatever sigma; see `Denoiser.forward`.

        Raises:
            ValueError: If noise is asked for and sigma is not the trained level.
        """
        if clean:
            return self.network(y)
        self._check_level(sigma)
        return (y - self.network(y)) / self.sigma2**0.5

    def _check_level(self, sigma: float | Tensor) -> None:
        if not isinstance(sigma, Tensor):
            self._refuse_others(sigma)
        elif sigma.numel():
            note(self._refuse_others, *torch.aminmax(sigma.detach()))

    def _refuse_others(self, *asked: float) -> None:
        known = self.sigma2**0.5
        for sigma in asked:
            if not abs(sigma - known) <= SAME_LEVEL * known:
                raise ValueError(
                    f"this autoencoder knows the noise of sigma {known:g} (sigma2 {self.sigma2:g}) and was asked at "
                    f"sigma {sigma:g}; ask at {known:g}, or take a score model that knows all levels, such as "
                    "NCSNv2Score"
                )
