"""Lemmas 2 and 3 and Theorem 2 hold, and would be missed if they claimed more."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from lit_pursamere.diffusion import expected_reconstruction_error
from lit_pursamere.worlds import recovery

RATIOS = [1.0, 1.02, 1.1, 1.3, 1.7, 2.5, 4.0]
DIMENSIONS = [1, 2, 16, 64, 3072]


@pytest.mark.parametrize("power", [0, 1, 2])
def test_tail_moments_agree_with_a_sample(power):
    xi = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    square = xi.square().sum(1)
    sample = square**power * (square >= 3 * 1.2**2)
    found = recovery.tail_moment(1.2, 3, power)
    assert found == pytest.approx(float(sample.mean()), abs=4 * float(sample.std()) / len(xi) ** 0.5)


@pytest.mark.parametrize("dimension", DIMENSIONS)
def test_lemma_2(dimension):
    for ratio in RATIOS:
        bound = recovery.lemma_2_bound(ratio, dimension)
        for power in (0, 1, 2, 3):
            scale = math.sqrt(recovery.tail_moment(0, dimension, 2 * power))
            assert recovery.tail_moment(ratio, dimension, power) <= bound * scale
        assert math.sqrt(recovery.tail_moment(ratio, dimension)) <= bound  # of all g with this C the largest


def test_lemma_2_with_twice_its_exponent_would_be_false():
    hardest = math.sqrt(recovery.tail_moment(2.0, 64))
    assert recovery.lemma_2_bound(2.0, 64) ** 2 < hardest


def test_lemma_3_in_two_dimensions():
    """Random curvatures of at least mu, and random disturbances of at most eps, against a fine grid."""
    side = torch.linspace(-0.6, 0.6, 241, dtype=torch.float64)
    points, generator = torch.cartesian_prod(side, side), torch.Generator().manual_seed(0)
    step, shares = 0.005, []
    for _ in range(30):
        angle, mu, extra, eps = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        mu, eps = 1 + 4 * mu, 0.01 + 0.1 * eps
        turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
        hessian = turn @ torch.diag(torch.tensor([mu, mu + 9 * extra]).double()) @ turn.T
        waves = torch.randn(2, 5, generator=generator, dtype=torch.float64) * 20
        disturbance = eps * torch.sin(points @ waves + 3 * torch.rand(5, generator=generator).double()).mean(1)
        moved = recovery.displaced_minimiser(hessian, disturbance, points)
        shares.append(moved / recovery.lemma_3_bound(eps, mu))
        assert moved <= recovery.lemma_3_bound(eps, mu) + step
    assert max(shares) > 0.3  # it is not trivial


@pytest.mark.parametrize("eps", [1e-4, 1e-2, 1.0])
def test_lemma_3_is_attained(eps):
    x = torch.linspace(-1, 1, 400_001, dtype=torch.float64).reshape(-1, 1)
    disturbance = recovery.sharpest_disturbance(x.abs().flatten(), eps, 4.0)
    assert float(disturbance.abs().max()) <= eps
    moved = recovery.displaced_minimiser(torch.tensor([[4.0]]).double(), disturbance, x)
    assert moved / recovery.lemma_3_bound(eps, 4.0) == pytest.approx(0.98, abs=0.002)


def minimiser_error(sigma: float) -> float:
    """|argmin R - 0.5| over [0.45, 0.8], by bisection on the sign of dR/dx with equally likely noise quantiles."""
    count = 20_000
    ranks = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    noise = torch.special.ndtri(ranks).reshape(-1, 1, 1, 1, 1)
    low, high = 0.45, 0.8
    for _ in range(30):
        x = torch.full((1, 1, 1, 1), (low + high) / 2, dtype=torch.float64, requires_grad=True)
        error = expected_reconstruction_error(recovery.PiecewiseAffine(), x, sigma, noise).sum()
        (slope,) = torch.autograd.grad(error, x)
        low, high = (low, x.item()) if slope.item() > 0 else (x.item(), high)
    return abs(low - 0.5)


THEOREM = {0.2: 0.0742, 0.15: 0.0621, 0.12: 0.0411, 0.1: 0.0231, 0.08: 0.00698, 0.07: 0.00213, 0.05: 7.354e-6}


@pytest.mark.parametrize("sigma", [0.15, 0.08])
def test_the_closed_form_is_where_the_reconstruction_error_is_least(sigma):
    assert recovery.minimiser_error(sigma) == pytest.approx(minimiser_error(sigma), rel=0.02)


def test_theorem_2_the_minimiser_approaches_the_maximum_within_its_bound():
    for sigma, expected in THEOREM.items():
        assert recovery.minimiser_error(sigma) == pytest.approx(expected, rel=0.01)
    for sigma in np.linspace(0.03, 0.2, 60):
        assert recovery.minimiser_error(sigma) <= recovery.theorem_2_bound(sigma)


@pytest.mark.parametrize("dimension", [1, 4, 16])
def test_theorem_2_its_rate(dimension):
    """Whatever its constant: log(sigma error) + d/8 (radius / sigma - 1)^2 must not grow as sigma falls.

    The margin around a point of D is sqrt(d) times the radius.
    """
    radius = recovery.RADIUS / math.sqrt(dimension)
    sigmas = np.linspace(radius, 0.035, 30)
    errors = [recovery.minimiser_error(sigma, dimension) for sigma in sigmas]
    exponents = [dimension / 8 * (radius / sigma - 1) ** 2 for sigma in sigmas]
    excess = [math.log(s * error) + e for s, error, e in zip(sigmas, errors, exponents, strict=True)]
    assert all(a >= b for a, b in pairwise(excess))
