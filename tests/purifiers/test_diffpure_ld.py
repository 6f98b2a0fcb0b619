"""DiffPure's Langevin variant has the moments of its recursion on a Gaussian."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.diffusion import GaussianMixtureScore, VariancePreserving
from lit_pursamere.purifiers import DiffPureLD

VP = VariancePreserving()
MEAN, STD = 0.4, 0.1  # of a Gaussian world, in pixel units
MU, TAU = 2 * MEAN - 1, 2 * STD  # centred


@pytest.fixture
def gaussian() -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.full((1, 1, 2, 2), MEAN, dtype=torch.float64), std=STD)


def test_number_of_network_evaluations_and_gaussians(gaussian, images, watched, watched_noise):
    model = watched(gaussian)
    DiffPureLD(model)(images[:1, :1], watched_noise)
    assert len(model.seen) == 100
    assert watched_noise.drawn == [("reverse", k) for k in range(1, 101)]


def test_purified_copies_have_the_moments_of_the_recursion(gaussian):
    """A step is affine: u' = u + lam dt / 2 ((sqrt(a) mu - u) / v - (u - u_0) / sigma2) + eta sqrt(lam dt) z."""
    x = torch.full((1, 1, 2, 2), 0.45, dtype=torch.float64)
    purifier = DiffPureLD(gaussian, eta=0.5)
    power, u_0, rate = VP.start(1e-2, "continuous"), 2 * 0.45 - 1, 1e-2 * 1e-2 / 2
    mean, variance, v = u_0, 0.0, power * TAU**2 + 1 - power
    for _ in range(100):
        keep = 1 - rate * (1 / v + 1 / 1e-3)
        mean = keep * mean + rate * (power**0.5 * MU / v + u_0 / 1e-3)
        variance = keep**2 * variance + 0.5**2 * 2 * rate
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        purified = purifier(x.expand(10_000, 1, 2, 2))
    error = variance**0.5 / 2 / purified.numel() ** 0.5
    assert abs(purified.mean().item() - (mean + 1) / 2) < 5 * error
    assert abs(purified.std().item() - variance**0.5 / 2) < 5 * error


def test_the_exact_gradient_agrees_with_finite_differences_and_without_recomputation(mixture, images):
    purifier, x = DiffPureLD(mixture, eta=1.0, horizon=0.04, seed=0), images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)
    (expected,) = torch.autograd.grad(purifier(x).square().sum(), x)
    purifier.recompute = False
    (kept,) = torch.autograd.grad(purifier(x).square().sum(), x)
    assert torch.allclose(kept, expected, rtol=0, atol=1e-12) and expected.norm() > 0


@pytest.mark.parametrize(("arguments", "value"), [({"sigma2": 0.0}, "0.0"), ({"eta": -1.0}, "-1.0")])
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        DiffPureLD(mixture, **arguments)
