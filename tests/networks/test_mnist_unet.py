"""Small networks for MNIST that others trained: they load, and are as good as was measured elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_pursamere.diffusion import VP, PreconditionedScore
from lit_pursamere.networks import MagNetAutoencoder, MNISTEnergy, MNISTUNet
from lit_pursamere.weights import load_weights


@pytest.fixture
def others(repository_root):
    """A file of a network that others trained, and the first 200 test images of MNIST."""
    shared = repository_root / "../shared"
    models = Path(os.environ.get("LIT_PURSAMERE_MODELS", shared / "models"))
    images = Path(os.environ.get("LIT_PURSAMERE_DATA", shared / "data")) / "mnist.npz"

    def found(name: str) -> tuple[str, torch.Tensor]:
        if not ((models / name).is_file() and images.is_file()):
            pytest.skip("no networks of others here; set LIT_PURSAMERE_MODELS and LIT_PURSAMERE_DATA to their folders")
        return str(models / name), torch.from_numpy(np.load(images)["test_images"][:200, None]).float() / 255

    return found


def test_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in MNISTUNet().parameters()) == 606_852


def test_times_are_rows_of_a_table_and_matter():
    torch.manual_seed(0)
    network, x = MNISTUNet().double().eval(), torch.randn(2, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        together = network(x, torch.tensor([3, 700]))
        alone = torch.cat([network(x[:1], torch.tensor([3.2])), network(x[1:], torch.tensor([699.6]))])
        assert torch.allclose(together, alone, rtol=0, atol=1e-12)
        assert not torch.allclose(together, network(x, torch.tensor([4, 701])), atol=1e-9)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match=r"wants images \(B, 1, 28, 28\); got \(1, 3, 32, 32\)"):
        MNISTUNet()(torch.zeros(1, 3, 32, 32), torch.tensor([0]))


def test_the_released_network_finds_the_noise(others):
    """The mean squared errors of the noise that were measured elsewhere, at three steps."""
    file, x = others("mnist_ddpm.pt")
    model = PreconditionedScore(MNISTUNet(), "ddpm_nearest", file).eval()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for index, measured in ((50, 0.097), (100, 0.068), (200, 0.043)):
        sigma = (1 / float(VP.alpha_bar_table[index]) - 1) ** 0.5 / 2
        with torch.no_grad():
            error = (model.predict_noise(x + sigma * noise, sigma) - noise).square().mean().item()
        assert error == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("number", "measured"), [(1, 0.00129), (2, 0.00050)])
def test_the_released_autoencoders_of_magnet_keep_images(others, number, measured):
    """Their layers are saved by number, as weight and bias."""
    file, x = others(f"magnet_mnist_{number}.pth")
    network = MagNetAutoencoder(pooling=number == 1)
    load_weights(network, file)
    with torch.no_grad():
        assert (network(x) - x).square().mean().item() == pytest.approx(measured, rel=0.05)


def test_the_released_energy_prefers_images_to_their_noisy_copies(others):
    file, x = others("mnist_ebm.ckpt")
    network, x = MNISTEnergy(), 2 * x - 1
    load_weights(network, file)
    noisy = (x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(-1, 1)
    with torch.no_grad():
        assert (network(x) > network(noisy)).all()
    with pytest.raises(ValueError, match=r"wants images \(B, 1, 28, 28\); got"):
        network(x[:, :, :14])
