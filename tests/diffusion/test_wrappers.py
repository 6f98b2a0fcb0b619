"""Every wrapper turns the exact network of a Gaussian into the exact score model, and recorded networks into recorded
denoisers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_pursamere.diffusion import (
    DDPMppScore,
    DDPMScore,
    EDMScore,
    GaussianMixtureScore,
    NCSNv2Score,
    PreconditionedScore,
    VariancePreserving,
    expected_reconstruction_error,
)
from lit_pursamere.diffusion.wrappers import stated_levels

VP = VariancePreserving()
MEAN, TAU = 0.4, 0.2  # of the Gaussian, in [0, 1] pixels
SIGMAS = (0.01, 0.05, 0.1694, 0.5, 3.0, 40.0)


def level_of(label, preconditioning):
    """Noise level sigma_u that a network is told about, from its label."""
    if preconditioning == "vp":
        return VP.sigma_of_time(label / 999)
    if preconditioning == "ddpm":
        left = label.floor().long().clamp(max=998)
        grid = VP.sigma_table.log()
        return (grid[left] + (label - left) * (grid[left + 1] - grid[left])).exp()
    return (4 * label).exp() if preconditioning == "edm" else 2 * label.exp()


class ExactNetwork(nn.Module):
    """What a perfectly trained network of a family returns for X ~ N(MEAN, TAU^2): exact noise, from its own inputs."""

    def __init__(self, preconditioning):
        super().__init__()
        self.preconditioning = preconditioning

    def forward(self, x, label):
        sigma = level_of(label, self.preconditioning)[:, None, None, None]
        mean, variance = 2 * MEAN - 1, (2 * TAU) ** 2
        if self.preconditioning == "ve":
            return -sigma * (x - mean) / (variance + sigma**2)
        if self.preconditioning == "edm":  # F = (D - c_skip u) / c_out
            u = x * (sigma**2 + 0.25).sqrt()
            denoised = mean + variance / (variance + sigma**2) * (u - mean)
            return (denoised - 0.25 / (sigma**2 + 0.25) * u) / (sigma * 0.5 / (sigma**2 + 0.25).sqrt())
        alpha_bar = 1 / (1 + sigma**2)
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mean) / (alpha_bar * variance + 1 - alpha_bar)


@pytest.fixture(params=["ddpm", "vp", "ve", "edm"])
def wrapped(request):
    return PreconditionedScore(ExactNetwork(request.param), request.param).double()


@pytest.fixture
def gaussian():
    return GaussianMixtureScore(torch.full((1, 2, 2, 2), MEAN, dtype=torch.float64), std=TAU)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_wrapped_gaussian_is_the_gaussian(wrapped, gaussian, images, sigma):
    y = images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0), dtype=images.dtype)
    for quantity in ("predict_noise", "score", "denoise"):
        expected = getattr(gaussian, quantity)(y, sigma)
        assert torch.allclose(getattr(wrapped, quantity)(y, sigma), expected, rtol=1e-9, atol=1e-9), quantity


def test_a_level_per_image(wrapped, gaussian, images):
    sigma = torch.linspace(0.02, 2, len(images), dtype=images.dtype)
    assert torch.allclose(wrapped.predict_noise(images, sigma), gaussian.predict_noise(images, sigma), atol=1e-9)


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_reconstruction_error_is_the_closed_form(wrapped, images, sigma):
    x = images[:2]
    draws = torch.randn((100_000, 1, 2, 2, 2), generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    variance = TAU**2 + sigma**2
    expected = 8 * TAU**4 / variance**2 + sigma**2 * (x - MEAN).square().flatten(1).sum(1) / variance**2
    assert torch.allclose(expected_reconstruction_error(wrapped, x, sigma, draws), expected, rtol=0.01)


def test_nearest_index_asks_at_trained_steps_only(images):
    asked = []

    class Spy(nn.Module):
        def forward(self, x, label):
            asked.append(label)
            return x

    sigma = torch.linspace(0.02, 2, len(images), dtype=images.dtype)
    for preconditioning in ("ddpm", "ddpm_nearest"):
        PreconditionedScore(Spy(), preconditioning).predict_noise(images, sigma)
    fractional, nearest = asked
    assert torch.equal(nearest, fractional.round()) and not torch.equal(nearest, fractional)
    distance = (VP.sigma_table.log()[:, None] - (2 * sigma).log()).abs()
    assert torch.equal(nearest.long(), distance.argmin(0))


@pytest.mark.parametrize("sigma", [1e-4, 500.0])
@pytest.mark.parametrize("preconditioning", ["ddpm", "vp"])
def test_levels_beyond_the_schedule_stay_finite(images, sigma, preconditioning):
    noise = PreconditionedScore(ExactNetwork(preconditioning), preconditioning).predict_noise(images, sigma)
    assert noise.isfinite().all() and noise.abs().max() > 0


def test_an_unknown_preconditioning_is_named():
    with pytest.raises(ValueError, match="'vpp'"):
        PreconditionedScore(nn.Identity(), "vpp")
    with pytest.raises(ValueError, match="'closest'"):
        DDPMScore(index="closest")


SMALL_DDPMPP = {"nf": 16, "num_res_blocks": 2}
SMALL_SONG = {"model_channels": 16, "num_blocks": 1}


def test_ddpmpp_gives_the_recorded_score_of_the_vp_state(golden, golden_tensors):
    data = golden_tensors("score_sde/ddpmpp_small_io")
    model = DDPMppScore(**SMALL_DDPMPP, checkpoint=str(golden / "score_sde/ddpmpp_small_checkpoint.pth")).eval()
    sigma_u = VP.sigma_of_time(data["t"].double())
    alpha_bar = 1 / (1 + sigma_u**2)
    assert torch.allclose((1 - alpha_bar).sqrt().float(), data["marginal_std"], rtol=2e-3)  # cancels at small t
    root = alpha_bar.sqrt().float()[:, None, None, None]
    y = (data["x"] / root + 1) / 2  # the VE image in [0, 1] whose VP state is x
    with torch.no_grad():
        noise, score = (f(y, sigma_u.float() / 2) for f in (model.predict_noise, model.score))
    # The input x makes a detour through y, and the recorded score was divided by the recorded deviation.
    for ours, theirs, limit in ((noise, data["out"], 1e-4), (score / root / 2, data["score"], 2e-3)):
        error = (ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)
        assert error.max() < limit


def test_ddpmpp_gives_the_recorded_drift_of_the_reverse_sde(golden, golden_tensors):
    data = golden_tensors("score_sde/ddpmpp_small_io")
    model = DDPMppScore(**SMALL_DDPMPP, checkpoint=str(golden / "score_sde/ddpmpp_small_checkpoint.pth")).eval()
    x = data["x"][:2].double()
    model = model.double()
    for reversed_time, drift, diffusion in zip(data["rev.t_prime"], data["rev.f"], data["rev.g"], strict=True):
        t = 1 - reversed_time.double()
        beta, alpha_bar = VP.beta_min + (VP.beta_max - VP.beta_min) * t, VP.alpha_bar(t)
        with torch.no_grad():
            noise = model.predict_noise((x / alpha_bar.sqrt() + 1) / 2, (VP.sigma_of_time(t) / 2).item())
        ours = 0.5 * beta * x - beta * noise / (1 - alpha_bar).sqrt()  # -(f - g^2 score), f = -beta x / 2
        theirs = drift.double().view_as(x)
        limit = 1e-2 if t < 1e-4 else 1e-3  # near 0 the recorded deviation cancels in float32
        assert (ours - theirs).norm() < limit * theirs.norm(), float(t)
        assert torch.allclose(diffusion.double(), beta.sqrt().expand_as(diffusion), rtol=1e-4)


@pytest.mark.parametrize("preconditioning", ["edm", "vp"])
def test_songunet_gives_the_recorded_denoiser(golden, golden_tensors, preconditioning):
    data = golden_tensors("edm/songunet_small")
    file = golden / "edm/songunet_small_official_layout.pkl"
    network = EDMScore(**SMALL_SONG, checkpoint=str(file)).network  # recorded under both, though it says EDM's
    model = PreconditionedScore(network, preconditioning).eval()
    seen = []
    model.network.register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    with torch.no_grad():
        denoised = 2 * model.denoise((data["x_noisy"] + 1) / 2, data["sigma"].float() / 2) - 1
    for ours, key in ((denoised, "D"), (seen[0], "net_input"), (seen[1], "c_noise"), (seen[2], "F")):
        theirs = data[f"{preconditioning}.{key}"].float()
        error = (ours - theirs).flatten(1 if ours.ndim > 1 else 0).norm(dim=-1) / theirs.norm()
        assert error.max() < 1e-4, key  # the recorded label of the smallest level cancelled in float32


TINY = {"channels": 1, "image_size": 8}
TINY_DDPM = {"block_out_channels": (8, 8), "attention": (False, True), "layers_per_block": 1, "norm_num_groups": 4}


@pytest.mark.parametrize(
    "build",
    [
        lambda: DDPMScore(**TINY_DDPM, **TINY),
        lambda: DDPMppScore(nf=8, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(4,), **TINY),
        lambda: EDMScore(model_channels=8, channel_mult=(1, 1), num_blocks=1, attn_resolutions=(4,), **TINY),
        lambda: NCSNv2Score(ngf=4, **TINY),
    ],
    ids=["ddpm", "ddpmpp", "edm", "ncsnv2"],
)
def test_a_checkpoint_fills_the_network_that_it_came_from(build, tmp_path):
    from lit_pursamere.weights import load_weights, save_weights

    torch.manual_seed(0)
    first, second = build().eval(), build().eval()
    save_weights(first.network, tmp_path / "network.safetensors")
    y = torch.rand(2, 1, 8, 8)
    load_weights(second.network, tmp_path / "network.safetensors")
    assert torch.equal(second.predict_noise(y, 0.3), first.predict_noise(y, 0.3))


@pytest.mark.parametrize(
    ("card", "levels"),
    [
        ({"trained_at": "[0.01, 5]"}, (0.01, 5.0)),
        ({"trained_at": "[0.01, 5]", "val/error_sigma_9_to_1": "2"}, (0.01, 5.0)),
        ({"val/error_sigma_5_to_1.5": "2", "val/error_sigma_1.4_to_1e-2": "2"}, (0.01, 5.0)),
        ({"trained_at": "[5, 0.01]"}, None),
        ({"trained_at": "[NaN, 1]"}, None),
        ({"trained_at": "wide"}, None),
        ({"trained_at": "[1]"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_card_states_the_levels_of_its_training(card, levels):
    assert stated_levels(card) == levels
