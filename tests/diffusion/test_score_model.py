"""Noise estimate, score and denoised image are one thing (Tweedie); a mixture's score is its density's gradient."""

from __future__ import annotations

import math

import pytest
import torch

from lit_pursamere.diffusion import FFDNetScore, GaussianMixtureScore, ScoreModel

SIGMAS = (0.01, 0.3, 5.0)


def log_density(y, model, sigma):
    """Log density of the noisy mixture, from torch.distributions only."""
    components = []
    for mean, std, log_weight in zip(model.means, model.std, model.log_weights, strict=True):
        normal = torch.distributions.Normal(mean, (std**2 + sigma**2).sqrt())
        components.append(log_weight + normal.log_prob(y).flatten(1).sum(1))
    return torch.stack(components).logsumexp(0)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_mixture_score_is_the_gradient_of_its_log_density(mixture, images, sigma):
    y = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(y, mixture, sigma).sum(), y)
    assert torch.allclose(mixture.score(images, sigma), gradient, rtol=1e-10, atol=1e-10)
    assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("world", ["mixture", "network"])
def test_the_three_quantities_agree(mixture, tiny_score, images, sigma, world):
    model, y = (mixture, images) if world == "mixture" else (tiny_score.double(), images[:, :1].repeat(1, 1, 4, 4))
    noise, score, clean = model.predict_noise(y, sigma), model.score(y, sigma), model.denoise(y, sigma)
    assert torch.allclose(score * sigma, -noise, rtol=1e-12, atol=1e-14)
    assert torch.allclose(clean, y + sigma**2 * score, rtol=1e-12, atol=1e-12)
    assert noise.shape == score.shape == clean.shape == y.shape


def test_denoising_a_gaussian_is_its_conditional_mean(images):
    tau, sigma, mean = 0.2, 0.3, torch.full((1, 2, 2, 2), 0.4)
    model = GaussianMixtureScore(mean, std=tau).double()
    expected = 0.4 + (images - 0.4) * tau**2 / (tau**2 + sigma**2)
    assert torch.allclose(model.denoise(images, sigma), expected, atol=1e-6)


def test_point_masses_denoise_to_the_nearest_mean(images):
    means = torch.stack([torch.full((2, 2, 2), 0.0), torch.full((2, 2, 2), 1.0)])
    model = GaussianMixtureScore(means, std=0.0).double()
    expected = (images.mean(dim=(1, 2, 3), keepdim=True) > 0.5).double().expand_as(images)
    assert torch.allclose(model.denoise(images, 0.01), expected, atol=1e-9)


def test_weights_are_normalised_and_matter(images):
    means = torch.stack([torch.full((2, 2, 2), 0.0), torch.full((2, 2, 2), 1.0)])
    models = [GaussianMixtureScore(means, 0.1, weights).double() for weights in ([1, 3], [0.25, 0.75], None)]
    first, same, other = (model.score(images, 1.0) for model in models)
    assert torch.allclose(first, same, atol=1e-6)
    assert not torch.allclose(first, other, atol=1e-2)


@pytest.mark.parametrize("world", ["mixture", "network"])
def test_a_level_per_image_equals_scalar_levels(mixture, tiny_score, images, world):
    model, y = (mixture, images) if world == "mixture" else (tiny_score.double(), images[:, :1].repeat(1, 1, 4, 4))
    sigma = torch.linspace(0.05, 2.0, len(y), dtype=y.dtype)
    for quantity in (model.predict_noise, model.score, model.denoise):
        alone = torch.cat([quantity(y[i : i + 1], sigma[i].item()) for i in range(len(y))])
        assert torch.allclose(quantity(y, sigma), alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(model.score(y, torch.tensor(0.5, dtype=y.dtype)), model.score(y, 0.5))


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"means": torch.zeros(2, 4)}, r"\(2, 4\)"),
        ({"means": torch.zeros(2, 1, 2, 2), "std": -0.1}, "-0.1"),
        ({"means": torch.zeros(2, 1, 2, 2), "weights": [1.0]}, "2 weights"),
        ({"means": torch.zeros(2, 1, 2, 2), "weights": [1.0, 0.0]}, "0."),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value):
        GaussianMixtureScore(**arguments)


def test_the_noise_estimate_is_standard_normal_far_above_the_data(mixture):
    xi = torch.randn((4000, 2, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimate = mixture.predict_noise(0.5 + 50 * xi, 50.0)
    assert abs(estimate.mean().item()) < 4 / math.sqrt(estimate.numel())
    assert abs(estimate.std().item() - 1) < 0.02


@pytest.mark.parametrize("family", ["NCSNv2", "DDPM", "EDM", "DAE", "FFDNet", "mixture"])
@pytest.mark.parametrize("quantity", ["predict_noise", "score", "denoise"])
def test_forward_hooks_see_whatever_is_asked(tiny_scores, mixture, family, quantity):
    if family in ("mixture", "FFDNet"):
        model = mixture if family == "mixture" else FFDNetScore(channels=2, width=4, depth=3, sigma_max=1)
    else:
        model = tiny_scores(family)
    y = torch.rand(3, 2, 2, 2, dtype=torch.float64) if family == "mixture" else torch.rand(3, 1, 8, 8)
    y = torch.rand(3, 2, 8, 8) if family == "FFDNet" else y
    seen = []
    hook = model.register_forward_hook(lambda _, inputs, result: seen.append((inputs[0], inputs[1], result)))
    sigma = 0.15**0.5  # the level of the autoencoder
    asked = getattr(model, quantity)(y, sigma)
    hook.remove()
    ((image, level, result),) = seen
    assert image is y and level == sigma and result.shape == y.shape
    clean = family in ("DAE", "FFDNet") and quantity == "denoise"
    expected = {"predict_noise": result, "score": -result / sigma, "denoise": result if clean else y - sigma * result}
    assert torch.equal(asked, expected[quantity])


def test_a_score_model_needs_a_forward():
    class Silent(ScoreModel):
        pass

    with pytest.raises(TypeError, match=r"abstract method.*forward"):
        Silent()
