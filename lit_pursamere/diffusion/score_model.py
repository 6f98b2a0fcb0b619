"""Score models: one interface, in [0, 1] pixel units, for every network that knows the noise in an image.

A noisy image is y = x + sigma * xi with xi ~ N(0, I). A score model is a module that maps (y, sigma) to an estimate of
xi; the other two quantities follow from it:

    predict_noise(y, sigma) = xi_hat
    score(y, sigma)         = -xi_hat / sigma            (s = grad log p of the noisy images)
    denoise(y, sigma)       = y - sigma * xi_hat         (Tweedie: E[X | y], [PurSAMERE eq. 4])

All three call the module, so that forward hooks see whatever a score model is asked.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

__all__ = ["Denoiser", "GaussianMixtureScore", "ScoreModel"]


def level_tensor(sigma: float | Tensor, y: Tensor) -> Tensor:
    """A noise level, scalar or (B,), as a tensor with dtype and device of images y."""
    # A number is written where it is needed: torch.as_tensor would copy it there, and make a GPU wait for the copy.
    return sigma.to(y.device, y.dtype) if isinstance(sigma, Tensor) else y.new_full((), sigma)


def per_image(sigma: float | Tensor, y: Tensor) -> Tensor:
    """Shape a noise level, scalar or (B,), so that it broadcasts over images (B, C, H, W)."""
    sigma = level_tensor(sigma, y)
    return sigma.reshape(-1, *[1] * (y.ndim - 1)) if sigma.ndim else sigma


class ScoreModel(nn.Module, ABC):
    """Knows the noise in noisy images; subclasses implement `forward`."""

    _trained_at: tuple[float, float] = (0.0, math.inf)

    @property
    def trained_at(self) -> tuple[float, float]:
        """Smallest and largest sigma that it was trained at, in pixel units; 0 and infinity if nobody knows."""
        return self._trained_at

    @abstractmethod
    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Estimate xi from y = x + sigma * xi.

        Args:
            y: Noisy images (B, C, H, W): [0, 1] pixels plus noise.
            sigma: Standard deviation of the noise in the same units, a scalar or one per image (B,).

        Returns:
            Noise estimate (B, C, H, W), about N(0, I).
        """

    def predict_noise(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """What `forward` estimates, (B, C, H, W)."""
        return self(y, sigma)

    def score(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of the log density of the noisy images at y, (B, C, H, W)."""
        return -self(y, sigma) / per_image(sigma, y)

    def denoise(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Conditional mean of the clean image given y, (B, C, H, W)."""
        return y - per_image(sigma, y) * self(y, sigma)


class Denoiser(ScoreModel):
    """A score model whose network estimates clean images; subclasses implement `forward` with `clean`.

    `denoise` hands the network's image on as it is: computed from the noise, it would be rounded twice.
    """

    @abstractmethod
    def forward(self, y: Tensor, sigma: float | Tensor, clean: bool = False) -> Tensor:
        """Estimate xi from y = x + sigma * xi as `ScoreModel.forward` does; with `clean`, x, (B, C, H, W)."""

    def denoise(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """The network's image, (B, C, H, W)."""
        return self(y, sigma, clean=True)


class GaussianMixtureScore(ScoreModel):
    """Exact score model of an isotropic Gaussian mixture: the closed-form world of tests and figures.

    Args:
        means: Component means, (K, C, H, W) or nested lists of that shape.
        std: Standard deviation tau of the components, one for all or (K,). 0 puts all mass on the means.
        weights: Mixture weights (K,), normalised here; None: equal.

    Reference: X ~ sum_k w_k N(mu_k, tau_k^2 I), so Y_sigma has variances tau_k^2 + sigma^2 and a closed form score.
    """

    means: Tensor
    std: Tensor
    log_weights: Tensor

    def __init__(
        self, means: Tensor | list, std: float | list[float] = 0.1, weights: list[float] | None = None
    ) -> None:
        super().__init__()
        means = torch.as_tensor(means)
        means = means if means.is_floating_point() else means.to(torch.get_default_dtype())
        if means.ndim != 4:
            raise ValueError(f"GaussianMixtureScore needs means of shape (K, C, H, W); got {tuple(means.shape)}")
        stds = torch.as_tensor(std, dtype=means.dtype).expand(len(means))
        shares = (torch.ones(len(means)) if weights is None else torch.as_tensor(weights)).to(means.dtype)
        if (stds < 0).any() or len(shares) != len(means) or (shares <= 0).any():
            raise ValueError(f"GaussianMixtureScore needs std >= 0 and {len(means)} weights > 0; got {stds}, {shares}")
        self.register_buffer("means", means)
        self.register_buffer("std", stds.clone())
        self.register_buffer("log_weights", (shares / shares.sum()).log())

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        sigma = per_image(sigma, y)
        variance = self.std**2 + sigma.reshape(-1, 1) ** 2  # (B or 1, K)
        offset = y.unsqueeze(1) - self.means  # (B, K, C, H, W)
        distance = offset.flatten(2).square().sum(2)
        dimension = self.means[0].numel()
        log_posterior = self.log_weights - distance / (2 * variance) - dimension / 2 * variance.log()
        pull = torch.softmax(log_posterior, dim=1) / variance
        return sigma * (pull[:, :, None, None, None] * offset).sum(1)
