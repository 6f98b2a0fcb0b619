"""Theorem 1 of MALADE: the residual of the minimiser of the very objective that trains, and its limit."""

import pytest
import torch

from lit_pursamere.diffusion import GaussianMixtureScore, SDAEObjective
from lit_pursamere.worlds import sdae, theory

Z = torch.linspace(0, 1, 41, dtype=torch.float64)
SIGMAS = torch.logspace(-3, -2, 6, dtype=torch.float64)


@pytest.mark.parametrize("gain", [0.0, 10.0, sdae.BAYES, 150.0])
def test_theorem_1_the_remainder_is_of_third_order_or_better(gain):
    limit = sdae.theorem_1_limit(Z, gain)
    gaps = torch.stack([(sdae.sdae_residual(Z, s, gain) - s**2 * limit).abs().max() for s in SIGMAS.tolist()])
    assert theory.loglog_slope(SIGMAS, gaps) > 3
    assert gaps[0] < 0.01 * (1e-3**2 * limit.abs().max())


def test_without_the_classifiers_term_the_limit_would_be_another():
    plain = sdae.theorem_1_limit(Z, 0.0)
    gaps = torch.stack([(sdae.sdae_residual(Z, s, 150.0) - s**2 * plain).abs().max() for s in SIGMAS.tolist()])
    assert theory.loglog_slope(SIGMAS, gaps) == pytest.approx(2, abs=0.2)


def test_bayes_classifier_adds_nothing():
    torch.testing.assert_close(sdae.theorem_1_limit(Z, sdae.BAYES), sdae.theorem_1_limit(Z, 0.0), rtol=0, atol=1e-9)
    posterior = sdae.Logistic(sdae.BAYES)(Z.reshape(-1, 1, 1, 1)).softmax(1)[:, 1]
    torch.testing.assert_close(posterior, sdae.class_posterior(Z, 0.0), rtol=0, atol=1e-12)


def test_unsupervised_it_is_the_conditional_mean():
    mean = theory.smooth_mixture_score().denoise(Z.reshape(-1, 1, 1, 1), 0.1).flatten()
    torch.testing.assert_close(sdae.sdae_residual(Z, 0.1, 0.0), mean - Z)


@pytest.mark.parametrize("gain", [10.0, 150.0])
def test_it_is_the_minimiser_of_the_objective_that_trains(gain, z=0.44, sigma=0.1):
    """The objective's mean over x and label given z, by nodes of p(x | z): its slope vanishes at r(z)."""
    xi = torch.linspace(-8, 8, 161, dtype=torch.float64)
    normal = torch.exp(-(xi**2) / 2) / torch.exp(-(xi**2) / 2).sum()
    one = float(sdae.class_posterior(torch.tensor(z), sigma))
    x, weights, labels = [], [], []
    for label, share in ((0, 1 - one), (1, one)):
        alone = GaussianMixtureScore([[[[theory.MEANS[label]]]]], theory.STD).double()
        mean = float(alone.denoise(torch.full((1, 1, 1, 1), z, dtype=torch.float64), sigma))
        x.append(mean + xi * theory.STD * sigma / (theory.STD**2 + sigma**2) ** 0.5)
        weights.append(share * normal)
        labels += [label] * len(xi)
    x = torch.cat(x).reshape(-1, 1, 1, 1)
    objective = SDAEObjective(sigma**2, classifier=sdae.Logistic(gain))

    def slope(r):
        r = torch.tensor(r, dtype=torch.float64, requires_grad=True)
        sigmas = torch.full((len(x),), sigma, dtype=torch.float64)
        loss = objective.loss((r - x) / sigma, sigmas, x, torch.tensor(labels)) @ torch.cat(weights)
        return float(torch.autograd.grad(loss, r)[0])

    r = z + float(sdae.sdae_residual(torch.tensor([z], dtype=torch.float64), sigma, gain))
    assert slope(r) == pytest.approx(0, abs=1e-6)
    assert slope(r - 1e-3) < -1e-4 and slope(r + 1e-3) > 1e-4
