"""The expected reconstruction error R: the one function that training and purification both minimise.

Reference: PurSAMERE (Hoang et al., 2026), eqs. (6), (8), (9), (16).

    R(x; sigma) = E || xi - xi_hat(x + sigma xi, sigma) ||^2 = E || x - denoise(x + sigma xi) ||^2 / sigma^2

Training the score model minimises its mean over data with respect to the weights; PurSAMERE minimises it with
respect to the image.
"""

from __future__ import annotations

from torch import Tensor

from lit_pursamere.diffusion.score_model import ScoreModel, per_image

__all__ = ["expected_reconstruction_error", "noise_residual", "psnr"]


def noise_residual(score_model: ScoreModel, x: Tensor, sigma: float | Tensor, noise: Tensor) -> Tensor:
    """What a score model does not find of the noise of noisy images: noise - xi_hat(x + sigma noise, sigma).

    Args as for `expected_reconstruction_error`; returns (m, B, C, H, W).
    """
    if noise.ndim != 5 or noise.shape[1] not in (1, len(x)) or noise.shape[2:] != x.shape[1:]:
        raise ValueError(f"noise must be (m, 1 or {len(x)}, {tuple(x.shape[1:])}); got {tuple(noise.shape)}")
    draws, batch = len(noise), len(x)
    y = (x + per_image(sigma, x) * noise).flatten(0, 1)
    if isinstance(sigma, Tensor) and sigma.ndim:
        sigma = sigma.repeat(draws)
    return noise - score_model.predict_noise(y, sigma).unflatten(0, (draws, batch))


def expected_reconstruction_error(score_model: ScoreModel, x: Tensor, sigma: float | Tensor, noise: Tensor) -> Tensor:
    """Estimate R(x; sigma) from m noise draws; the draws share one forward pass.

    Args:
        score_model: Estimates the noise in noisy images.
        x: Images (B, C, H, W) in [0, 1].
        sigma: Noise level in pixel units, a scalar or one per image (B,).
        noise: Standard normal draws, (m, 1, C, H, W) shared by all images or (m, B, C, H, W).

    Returns:
        Per-image estimate (B,): squared error summed over pixels, averaged over the draws (eq. 16). For data from
        the model's own distribution its mean is at most d = C * H * W (eq. 11).
    """
    return noise_residual(score_model, x, sigma, noise).square().flatten(2).sum(2).mean(0)


def psnr(score_model: ScoreModel, x: Tensor, sigma: float | Tensor, noise: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of denoised images: the same error for one draw, as denoising papers report it.

    Args:
        score_model: Denoises in one step.
        x: Images (B, C, H, W) in [0, 1].
        sigma: Noise level in pixel units, a scalar or one per image (B,).
        noise: Standard normal draws (B, C, H, W).

    Returns:
        -10 log10 of the mean squared error of each image's denoised copy, clipped to [0, 1], in dB (B,).
    """
    denoised = score_model.denoise(x + per_image(sigma, x) * noise, sigma).clamp(0, 1)
    return -10 * (denoised - x).square().flatten(1).mean(1).log10()
