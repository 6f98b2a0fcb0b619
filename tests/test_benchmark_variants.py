"""benchmarks/variants.py: PurSAMERE itself at the defaults; variations keep its laws and have an exact gradient."""

from __future__ import annotations

import pytest
import torch

from benchmarks.variants import Variant
from lit_pursamere.diffusion import GaussianMixtureScore, SeededNoise
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.threat import image_norm

SETTINGS = {"rho_pur": 0.5, "rho_sam": 0.0, "draws": 2, "sigmas": [0.5, 0.3, 0.1]}
VARIATIONS = {
    "normalised": {"move": "normalised"},
    "heavy ball": {"move": "heavy_ball"},
    "start": {"start": 0.2},
    "enough": {"move": "normalised", "enough": [14.0, 14.0, 14.0]},
    "kept": {"kept": 0.5},
}


@pytest.fixture
def model():
    means = torch.rand((3, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return GaussianMixtureScore(means)


@pytest.fixture
def images():
    return torch.rand((6, 1, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_at_the_defaults_it_is_pursamere(model, images):
    assert torch.equal(Variant(model, **SETTINGS)(images), PurSAMERE(model, **SETTINGS)(images))


@pytest.mark.parametrize("name", VARIATIONS)
def test_laws_and_derivative(model, images, name):
    """Another image than PurSAMERE's, within the same ball and box; its gradient is that of finite differences."""
    purifier = Variant(model, **SETTINGS, **VARIATIONS[name]).drawing_from(SeededNoise(3))
    purified = purifier(images)
    assert not torch.allclose(purified, PurSAMERE(model, **SETTINGS).drawing_from(SeededNoise(3))(images), atol=1e-3)
    assert (purified >= 0).all() and (purified <= 1).all()
    assert (image_norm(purified - images, "l2") <= 0.5 + 1e-9).all()
    x = images.clone().requires_grad_()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (g,) = torch.autograd.grad((purifier(x) * direction.flip(0)).sum(), x)
    h = 1e-6
    with torch.no_grad():
        ahead, behind = ((purifier(images + s * h * direction) * direction.flip(0)).sum() for s in (1, -1))
    assert (g * direction).sum().item() == pytest.approx(((ahead - behind) / (2 * h)).item(), rel=1e-4)


def test_displacements_have_the_lowest_frequencies_alone(model):
    """Inside ball and box, where nothing is cut off."""
    x = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)
    purified = Variant(model, **SETTINGS | {"rho_pur": 10.0}, lr_max=0.01, kept=0.5)(x)
    spectrum = torch.fft.fft2(purified - x).abs()[0, 0]
    assert spectrum[2].max() < 1e-12 and spectrum[:, 2].max() < 1e-12 and spectrum[1, 1] > 1e-4


def test_where_r_is_small_enough_nothing_moves(model, images):
    still = Variant(model, **SETTINGS, move="normalised", enough=[1e9] * 3)
    assert torch.equal(still(images), images)
    x = images.clone().requires_grad_()
    (g,) = torch.autograd.grad(still(x).sum(), x)
    assert torch.equal(g, torch.ones_like(g))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"move": "sgd"}, "'sgd'"),
        ({"start": -1.0}, "start >= 0"),
        ({"kept": 0.0}, "kept in"),
        ({"enough": [1.0]}, "each of 3 levels; got 1"),
    ],
)
def test_complaints(model, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Variant(model, **SETTINGS, **settings)
