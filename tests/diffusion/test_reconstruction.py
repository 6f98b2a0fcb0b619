"""R is E || xi - xi_hat ||^2: closed form on a Gaussian, independent of how draws and images are batched, and twice the
score-matching loss that NCSNv2 was trained with."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.diffusion import GaussianMixtureScore, expected_reconstruction_error, psnr


def draws(count, like, shared=True, seed=0):
    shape = (count, 1 if shared else len(like), *like.shape[1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=like.dtype)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_closed_form_on_a_gaussian(images, sigma):
    tau, mean, dimension = 0.2, 0.4, 8
    model = GaussianMixtureScore(torch.full((1, 2, 2, 2), mean), std=tau).double()
    x = torch.stack([images[0], torch.full_like(images[0], mean)])
    error = expected_reconstruction_error(model, x, sigma, draws(100_000, x))
    variance = tau**2 + sigma**2
    distance = (x - mean).square().flatten(1).sum(1)
    expected = dimension * tau**4 / variance**2 + sigma**2 * distance / variance**2
    assert torch.allclose(error, expected, rtol=0.01)
    assert expected[0] > 1.05 * expected[1]


def test_data_of_the_model_itself_have_an_error_of_at_most_the_dimension(mixture):
    generator = torch.Generator().manual_seed(1)
    mode = torch.multinomial(mixture.log_weights.exp(), 2000, replacement=True, generator=generator)
    noise = torch.randn((2000, 2, 2, 2), generator=generator, dtype=torch.float64)
    x = mixture.means[mode] + mixture.std[mode][:, None, None, None] * noise
    for sigma in (0.02, 0.2, 2.0):
        error = expected_reconstruction_error(mixture, x, sigma, draws(20, x)).mean().item()
        assert 0 < error < 8 * 1.02


@pytest.mark.parametrize("sigma", [0.01, 0.2, 10.0])
def test_image_form_equals_noise_form(mixture, images, sigma):
    noise = draws(6, images)
    clean = torch.stack([mixture.denoise(images + sigma * xi, sigma) for xi in noise])
    image_form = (images - clean).square().flatten(2).sum(2).mean(0) / sigma**2
    assert torch.allclose(expected_reconstruction_error(mixture, images, sigma, noise), image_form, rtol=1e-8)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("per_image", [True, False])
def test_folded_draws_equal_a_loop(mixture, images, shared, per_image):
    sigma = torch.linspace(0.05, 1, len(images), dtype=images.dtype) if per_image else 0.3
    noise = draws(5, images, shared)
    expected = torch.zeros(len(images), dtype=images.dtype)
    for xi in noise.expand(5, *images.shape):
        for i, x in enumerate(images):
            level = sigma[i].item() if per_image else sigma
            residual = xi[i] - mixture.predict_noise((x + level * xi[i])[None], level)[0]
            expected[i] += residual.square().sum() / 5
    assert torch.allclose(expected_reconstruction_error(mixture, images, sigma, noise), expected, rtol=1e-10)


def test_shared_noise_equals_the_same_noise_given_to_every_image(mixture, images):
    noise = draws(3, images)
    shared = expected_reconstruction_error(mixture, images, 0.2, noise)
    copied = expected_reconstruction_error(mixture, images, 0.2, noise.expand(3, *images.shape))
    other = expected_reconstruction_error(mixture, images, 0.2, draws(3, images, shared=False))
    assert torch.allclose(shared, copied, rtol=1e-12)
    assert not torch.allclose(shared, other, rtol=1e-2)


@pytest.mark.parametrize("shape", [(3, 2, 2, 2), (3, 5, 2, 2, 2), (3, 1, 2, 2, 3), (3, 1, 1, 2, 2)])
def test_noise_of_another_shape_is_refused(mixture, images, shape):
    with pytest.raises(ValueError, match=str(shape[-1])):
        expected_reconstruction_error(mixture, images, 0.2, torch.zeros(shape, dtype=images.dtype))


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_half_of_it_is_the_recorded_score_matching_loss(golden_tensors, golden_score, name):
    data = golden_tensors(f"ncsnv2/{name}_small_dsm")
    sigma = golden_tensors("ncsnv2/sigmas_cifar10")["sigmas"][data["labels"]]
    model = golden_score(name)
    loss = expected_reconstruction_error(model, data["x"], sigma, data["noise"][None]) / 2
    assert torch.allclose(loss, data["loss_per_sample_ap2"], rtol=1e-5)
    assert torch.allclose(loss / sigma**2, data["loss_per_sample_ap0"], rtol=1e-5)
    loss.mean().backward()
    recorded = {key.removeprefix("grad_ap2."): g for key, g in data.items() if key.startswith("grad_ap2.")}
    assert len(recorded) == 8
    for parameter, gradient in recorded.items():
        error = model.network.get_parameter(parameter).grad - gradient
        assert error.norm() < 2e-5 * gradient.norm(), parameter


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_half_of_its_mean_is_the_recorded_loss_in_float64(golden_tensors, golden_score, name):
    data = golden_tensors(f"ncsnv2/{name}_small_dsm")
    sigma = golden_tensors("ncsnv2/sigmas_cifar10")["sigmas"][data["labels"]].double()
    error = expected_reconstruction_error(
        golden_score(name, torch.float64), data["x"].double(), sigma, data["noise"][None].double()
    )
    assert torch.allclose(error.mean() / 2, data["loss_ap2_f64"], rtol=1e-12)


def test_psnr_is_the_error_of_one_draw_in_decibels(images):
    """A Gaussian's denoised image is a mean of image and prior, so that its error is known; inside the box nothing is
    clipped."""
    tau, mean, sigma = 0.05, 0.5, 0.05
    model = GaussianMixtureScore(torch.full((1, 2, 2, 2), mean), std=tau).double()
    noise = draws(1, images, shared=False)[0]
    denoised = mean + tau**2 / (tau**2 + sigma**2) * (images + sigma * noise - mean)
    expected = -10 * (denoised - images).square().flatten(1).mean(1).log10()
    assert torch.allclose(psnr(model, images, sigma, noise), expected)
    levels = torch.full((len(images),), sigma, dtype=torch.float64)
    assert torch.allclose(psnr(model, images, levels, noise), expected)
    # And it is R, but for the clipping:
    error = expected_reconstruction_error(model, images, sigma, noise[None]) / 8
    assert torch.allclose(psnr(model, images, sigma, noise), -10 * (sigma**2 * error).log10())


def test_psnr_clips_to_the_box(images):
    class Bright(GaussianMixtureScore):
        def denoise(self, y, sigma):
            return y + 5

    model = Bright(torch.full((1, 2, 2, 2), 0.5))
    expected = -10 * (1 - images).square().flatten(1).mean(1).log10()
    assert torch.allclose(psnr(model, images, 0.1, torch.zeros_like(images)), expected)
