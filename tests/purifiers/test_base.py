"""Mixed precision: what is computed again on the way back is computed as it was the first time."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.diffusion import AutoencoderScore
from lit_pursamere.networks import DenoisingAutoencoder
from lit_pursamere.purifiers import DP_DDPM, MALADE, DiffPure

PURIFIERS = {
    "recomputed": lambda model: DP_DDPM(model, steps=20, seed=0),
    "adjoint": lambda model: DiffPure(model, dt=0.05, seed=0),
}


def gradient(purifier, x):
    """d(sum of squares)/dx, taken after the block of mixed precision has been left, as training loops do."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = purifier(x).square().sum()
    return torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("kind", PURIFIERS)
def test_the_way_back_has_the_precision_of_the_way_there(kind, tiny_scores):
    purifier, x = (
        PURIFIERS[kind](tiny_scores("EDM")),
        torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    if kind == "adjoint":
        purifier.adjoint = True
        with torch.autocast("cpu", torch.bfloat16):
            inside = x.clone().requires_grad_()
            (expected,) = torch.autograd.grad(purifier(inside).square().sum(), inside)
    else:
        purifier.recompute = False
        expected = gradient(purifier, x)
        purifier.recompute = True
    assert torch.allclose(gradient(purifier, x), expected, rtol=1e-5, atol=1e-6) and expected.abs().max() > 1e-2
    plain = x.clone().requires_grad_()
    (full,) = torch.autograd.grad(purifier(plain).square().sum(), plain)
    assert not torch.allclose(full, expected, rtol=1e-5, atol=1e-6), "else nothing was computed in bfloat16"


def test_malade_walks_in_the_images_own_precision():
    model = AutoencoderScore(DenoisingAutoencoder(1, 4))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert MALADE(model, steps=2, seed=0)(torch.rand(2, 1, 8, 8)).dtype == torch.float32
