"""FFDNet is its paper's stack of convolutions, reads the released file, and denoises as well as was measured."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lit_pursamere.diffusion import DenoiserScore, FFDNetScore, GaussianMixtureScore, psnr
from lit_pursamere.networks import FFDNet
from lit_pursamere.weights import load_weights


@pytest.fixture
def network():
    torch.manual_seed(0)
    return FFDNet(channels=1, width=5, depth=3).double()


def test_it_is_a_stack_of_convolutions_on_two_by_two_pixels(network):
    y, sigma = torch.rand(2, 1, 6, 4, dtype=torch.float64), torch.tensor([0.1, 0.2], dtype=torch.float64)
    corners = torch.stack([y[:, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
    h = torch.cat([corners, sigma[:, None, None, None].expand(2, 1, 3, 2)], 1)
    layers = [layer for layer in network if hasattr(layer, "weight")]
    for k, layer in enumerate(layers):
        h = F.conv2d(h, layer.weight, layer.bias, padding=1)
        h = h.clamp(min=0) if k < len(layers) - 1 else h
    out = network(y, sigma)
    for place, (i, j) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        assert torch.allclose(out[:, 0, i::2, j::2], h[:, place], atol=1e-12)


def test_it_is_the_released_size_and_loads_names_with_their_prefix(tmp_path, network):
    assert sum(p.numel() for p in FFDNet().parameters()) == 852_108
    torch.save({f"model.{name}": tensor for name, tensor in network.state_dict().items()}, tmp_path / "released.pth")
    again = FFDNet(1, 5, 3).double()
    load_weights(again, tmp_path / "released.pth")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), network.parameters(), strict=True))


def test_odd_images_and_bad_sizes_are_refused(network):
    with pytest.raises(ValueError, match=r"even; got \(1, 1, 5, 4\)"):
        network(torch.rand(1, 1, 5, 4).double(), torch.tensor([0.1]).double())
    with pytest.raises(ValueError, match="depth >= 2; got 3, 96 and 1"):
        FFDNet(depth=1)


def test_the_score_model_is_tweedies(network):
    model = FFDNetScore(channels=1, width=5, depth=3).double()
    model.network.load_state_dict(network.state_dict())
    y = torch.rand(3, 1, 4, 4, dtype=torch.float64)
    for sigma in (0.1, torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)):
        level = torch.as_tensor(sigma, dtype=torch.float64).expand(3)
        assert torch.allclose(model.denoise(y, sigma), network(y, level), atol=1e-12)
        back = y - level[:, None, None, None] * model.predict_noise(y, sigma)
        assert torch.allclose(back, network(y, level), atol=1e-12)


def test_levels_that_it_was_not_trained_at_are_refused(network):
    model = FFDNetScore(channels=1, width=5, depth=3)
    model.denoise(torch.rand(1, 1, 4, 4), 75 / 255)
    with pytest.raises(ValueError, match=r"up to sigma 0\.2941 and was asked at 0\.5"):
        model.predict_noise(torch.rand(1, 1, 4, 4), 0.5)
    with pytest.raises(ValueError, match=r"was asked at 0\.3"):
        model.denoise(torch.rand(2, 1, 4, 4), torch.tensor([0.1, 0.3]))
    with pytest.raises(ValueError, match="got 0"):
        FFDNetScore(sigma_max=0)


class Shrinking(torch.nn.Module):
    """The best denoiser of images of N(1/2, 0.2^2) pixels."""

    def forward(self, y, sigma):
        share = 0.2**2 / (0.2**2 + sigma.view(-1, 1, 1, 1) ** 2)
        return 0.5 + share * (y - 0.5)


def test_any_denoiser_that_is_told_its_sigma_is_a_score_model():
    model = DenoiserScore(Shrinking(), sigma_max=0.5, sigma_min=0.05)
    exact = GaussianMixtureScore([[[[0.5, 0.5], [0.5, 0.5]]]], std=0.2)
    y, sigma = torch.rand(3, 1, 2, 2), torch.tensor([0.05, 0.2, 0.5])
    for asked in (sigma, 0.3):
        for quantity in ("denoise", "predict_noise", "score"):
            assert torch.allclose(getattr(model, quantity)(y, asked), getattr(exact, quantity)(y, asked), atol=1e-5)
    assert model.trained_at == (0.05, 0.5)


def test_a_denoiser_is_asked_within_its_range_only():
    model, y = DenoiserScore(Shrinking(), sigma_max=0.5, sigma_min=0.05), torch.rand(2, 1, 2, 2)
    with pytest.raises(
        ValueError, match=r"this Shrinking knows noise up to sigma 0\.5 and was asked at 0\.6; let .* lower"
    ):
        model.score(y, 0.6)
    with pytest.raises(
        ValueError, match=r"this Shrinking knows noise down to sigma 0\.05 and was asked at 0\.01; .* higher"
    ):
        model.denoise(y, torch.tensor([0.1, 0.01]))
    for low, high in ((0.5, 0.1), (-1, 0.5), (0, 0)):
        with pytest.raises(ValueError, match=f"DenoiserScore needs 0 <= sigma_min.* got {low} and {high}"):
            DenoiserScore(Shrinking(), sigma_max=high, sigma_min=low)


def test_a_denoisers_weights_are_loaded(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "denoiser.pth")
    model = DenoiserScore(FFDNet(1, 5, 3).double(), 0.3, checkpoint=str(tmp_path / "denoiser.pth"))
    y = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    assert torch.allclose(model.denoise(y, 0.1), network(y, torch.tensor([0.1], dtype=torch.float64)), atol=1e-12)


def test_the_released_network_denoises_photographs(repository_root):
    """25/255 on the first 512 test images of CIFAR-10: 29.1 dB was measured on all of them, noise has 20.2."""
    shared = repository_root / "../shared"
    weights = Path(os.environ.get("LIT_PURSAMERE_MODELS", shared / "models")) / "ffdnet_color.pth"
    photographs = Path(os.environ.get("LIT_PURSAMERE_DATA", shared / "data")) / "cifar10_lossless.npz"
    if not (weights.is_file() and photographs.is_file()):
        pytest.skip(
            "neither FFDNet nor CIFAR-10 here; set LIT_PURSAMERE_MODELS and LIT_PURSAMERE_DATA to their folders"
        )
    file = np.load(photographs)
    x = torch.from_numpy(file["images"][file["split"] == "test"][:128]).permute(0, 3, 1, 2) / 255
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = psnr(FFDNetScore(checkpoint=str(weights)), x, 25 / 255, noise).mean()
    assert found == pytest.approx(29.1, abs=0.5)
