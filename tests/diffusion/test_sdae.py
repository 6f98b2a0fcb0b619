"""The supervised denoising autoencoder: eq. 8, and a denoising autoencoder where the classifier says nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lit_pursamere.diffusion import AutoencoderScore, DAEObjective, SDAEObjective, noise_residual

SIGMA2 = 0.15


class Constant(nn.Module):
    """Says the same of every image."""

    def forward(self, x):
        return x.flatten(1).sum(1, keepdim=True) * torch.zeros(3, dtype=x.dtype)


@pytest.fixture
def autoencoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return AutoencoderScore(nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Sigmoid()).double(), SIGMA2)


@pytest.fixture
def noise(images):
    return torch.randn((1, *images.shape), generator=torch.Generator().manual_seed(0), dtype=images.dtype)


def loss_of(objective, model, x, noise, labels):
    sigma = objective.draw_levels(len(x)).to(x)
    return objective.loss(noise_residual(model, x, sigma, noise)[0], sigma, x, labels)


def test_the_loss_is_eq_8(autoencoder, images, noise, linear_classifier):
    labels = torch.arange(8) % 3
    found = loss_of(SDAEObjective(SIGMA2, classifier=linear_classifier), autoencoder, images, noise, labels)
    denoised = autoencoder.network(images + SIGMA2**0.5 * noise[0])
    expected = (denoised - images).square().flatten(1).sum(1)
    expected = expected + 2 * SIGMA2 * cross_entropy(linear_classifier(denoised), labels, reduction="none")
    assert torch.allclose(found, expected, rtol=1e-6)


def test_with_a_constant_classifier_it_is_the_plain_autoencoder(autoencoder, images, noise):
    labels, slopes = torch.arange(8) % 3, []
    supervised, plain = SDAEObjective(SIGMA2, classifier=Constant()), DAEObjective(SIGMA2)
    for objective in (supervised, plain):
        loss = loss_of(objective, autoencoder, images, noise, labels)
        slopes.append(torch.autograd.grad(loss.mean(), list(autoencoder.parameters())))
    assert torch.allclose(
        loss_of(supervised, autoencoder, images, noise, labels),
        loss_of(plain, autoencoder, images, noise, labels) + 2 * SIGMA2 * math.log(3),
        rtol=1e-6,
    )
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(*slopes, strict=True))


def test_its_gradient_agrees_with_finite_differences(autoencoder, images, noise, linear_classifier):
    objective, weight = SDAEObjective(SIGMA2, classifier=linear_classifier), autoencoder.network[0].weight
    labels, sigma = torch.arange(8) % 3, torch.full((8,), SIGMA2**0.5, dtype=torch.float64)

    def loss(free):
        residual = noise[0] - torch.func.functional_call(
            autoencoder, {"network.0.weight": free}, (images + SIGMA2**0.5 * noise[0], sigma)
        )
        return objective.loss(residual, sigma, images, labels).mean()

    assert torch.autograd.gradcheck(loss, (weight,), eps=1e-6, atol=1e-7, rtol=1e-5)


def test_bad_arguments_are_named(linear_classifier):
    with pytest.raises(ValueError, match="DAEObjective is meant"):
        SDAEObjective(classifier=None)
    with pytest.raises(ValueError, match="got 0"):
        SDAEObjective(0, classifier=linear_classifier)
