"""An autoencoder as a score model: r itself, the exact score model at its own level, and a refusal at others."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lit_pursamere.diffusion import AutoencoderScore, GaussianMixtureScore, expected_reconstruction_error
from lit_pursamere.networks import DenoisingAutoencoder
from lit_pursamere.purifiers import MALADE
from lit_pursamere.weights import save_weights

MEAN, TAU, SIGMA2 = 0.4, 0.2, 0.04


class Posterior(nn.Module):
    """What a perfectly trained autoencoder returns for X ~ N(MEAN, TAU^2) and noise of variance SIGMA2."""

    def forward(self, y):
        return MEAN + TAU**2 / (TAU**2 + SIGMA2) * (y - MEAN)


@pytest.fixture
def wrapped():
    return AutoencoderScore(Posterior(), SIGMA2)


@pytest.fixture
def gaussian():
    return GaussianMixtureScore(torch.full((1, 2, 2, 2), MEAN, dtype=torch.float64), std=TAU)


@pytest.mark.parametrize("sigma", [0.2, torch.tensor(0.2), torch.full((8,), 0.2)], ids=["float", "scalar", "batch"])
def test_at_its_own_level_a_perfect_autoencoder_is_the_exact_score_model(wrapped, gaussian, images, sigma):
    for quantity in ("predict_noise", "score", "denoise"):
        ours, exact = (getattr(model, quantity)(images, sigma) for model in (wrapped, gaussian))
        assert torch.allclose(ours, exact, rtol=1e-6, atol=1e-9), quantity


def test_the_reconstruction_error_is_that_of_the_images(wrapped, images):
    noise = torch.randn((3, *images.shape), generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    error = (Posterior()(images + SIGMA2**0.5 * noise) - images).square().flatten(2).sum(2).mean(0)
    found = SIGMA2 * expected_reconstruction_error(wrapped, images, SIGMA2**0.5, noise)
    assert torch.allclose(found, error, rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.2, 0.01, 5.0])
def test_it_denoises_whatever_it_is_asked(wrapped, images, sigma):
    assert torch.equal(wrapped.denoise(images, sigma), Posterior()(images))
    assert torch.equal(MALADE(wrapped, sigma**2, sigma**2, 0, 1)(images), Posterior()(images))


@pytest.mark.parametrize("ask", ["predict_noise", "score"])
@pytest.mark.parametrize(
    "sigma", [0.1, 0.21, math.nan, torch.tensor([0.2] * 7 + [0.1])], ids=["half", "near", "nan", "one-of-the-batch"]
)
def test_at_another_level_it_knows_no_noise(wrapped, images, ask, sigma):
    told = "0.1" if isinstance(sigma, torch.Tensor) else f"{sigma:g}"
    with pytest.raises(ValueError, match=rf"sigma 0\.2 \(sigma2 0\.04\).*at sigma {told};"):
        getattr(wrapped, ask)(images, sigma)


def test_a_level_may_be_rounded(wrapped, images):
    for dtype in (torch.float32, torch.bfloat16):
        assert wrapped.predict_noise(images, torch.tensor(0.2, dtype=dtype)).shape == images.shape


def test_a_checkpoint_fills_the_network(tmp_path):
    torch.manual_seed(0)
    first = AutoencoderScore(DenoisingAutoencoder(1, 4))
    save_weights(first, tmp_path / "denoiser.safetensors")
    second = AutoencoderScore(DenoisingAutoencoder(1, 4), checkpoint=str(tmp_path / "denoiser.safetensors"))
    y = torch.rand(2, 1, 8, 8)
    assert torch.equal(second.denoise(y, 0.1), first.denoise(y, 0.1))
    assert "sigma2=0.15" in repr(second)


@pytest.mark.parametrize("sigma2", [0.0, -0.1, math.nan, math.inf])
def test_bad_variances_are_named(sigma2):
    with pytest.raises(ValueError, match=str(sigma2)):
        AutoencoderScore(Posterior(), sigma2)
