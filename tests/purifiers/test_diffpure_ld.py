"""DiffPure's Langevin variant: its cost, its exact gradient; test_gaussian_worlds.py has its moments."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.purifiers import DiffPureLD


def test_number_of_network_evaluations_and_gaussians(mixture, images, watched, watched_noise):
    model = watched(mixture)
    DiffPureLD(model)(images[:1], watched_noise)
    assert len(model.seen) == 100
    assert watched_noise.drawn == [("reverse", k) for k in range(1, 101)]


def test_the_exact_gradient_agrees_with_finite_differences_and_without_recomputation(mixture, images):
    purifier, x = DiffPureLD(mixture, eta=1.0, horizon=0.04).under("fixed"), images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)
    (expected,) = torch.autograd.grad(purifier(x).square().sum(), x)
    purifier.recompute = False
    (kept,) = torch.autograd.grad(purifier(x).square().sum(), x)
    assert torch.allclose(kept, expected, rtol=0, atol=1e-12) and expected.norm() > 0


@pytest.mark.parametrize(("arguments", "value"), [({"sigma2": 0.0}, "0.0"), ({"eta": -1.0}, "-1.0")])
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        DiffPureLD(mixture, **arguments)
