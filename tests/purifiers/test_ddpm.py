"""DP_DDPM and DP_DDIM: recorded runs, the grids and costs of the paper, its equation 5, and exact worlds."""

from __future__ import annotations

import math

import pytest
import torch

from lit_pursamere.diffusion import (
    DDPMScore,
    FreshNoise,
    GaussianMixtureScore,
    PartlySeededNoise,
    ScoreModel,
    SeededNoise,
    VariancePreserving,
    ddpm_moments,
    diffuse,
)
from lit_pursamere.purifiers import DP_DDIM, DP_DDPM

POWERS = VariancePreserving().alpha_bar_table
STEP_NOISE_SEED = 90150  # of the recorded runs: one generator, one draw a step


@pytest.fixture(scope="module")
def trace(golden_tensors):
    return golden_tensors("diffusers_ddpm/unet_small_trace")


@pytest.fixture(scope="module")
def recorded_score(trace) -> DDPMScore:
    model = DDPMScore(block_out_channels=(16, 32, 32, 32), layers_per_block=1, norm_num_groups=8).eval()
    model.network.load_state_dict({k.removeprefix("weights."): v for k, v in trace.items() if k.startswith("weights.")})
    return model


@pytest.mark.parametrize(
    ("tag", "build"),
    [
        ("ddpm_large", lambda model: DP_DDPM(model)),
        ("ddpm_small", lambda model: DP_DDPM(model, variance="fixed_small")),
        ("ddpm_large_100", lambda model: DP_DDPM(model, steps=100)),
        ("ddim100", lambda model: DP_DDIM(model)),
    ],
)
def test_runs_are_the_recorded_ones_step_by_step(trace, recorded_score, watched, recorded_noise, tag, build):
    model = watched(recorded_score)
    purifier = build(model)
    generator = torch.Generator().manual_seed(STEP_NOISE_SEED)
    reverse = torch.stack([torch.randn(trace["x0"].shape, generator=generator) for _ in purifier.timesteps[1:]])
    with torch.no_grad():
        purified = purifier((trace["x0"] + 1) / 2, recorded_noise(trace["noise"][None], reverse))
    assert list(purifier.timesteps) == trace[f"{tag}.timesteps"].tolist()
    roots = [alpha_bar**0.5 for alpha_bar in purifier.alpha_bars]
    states = [root * (2 * y - 1) for root, y in zip(roots, model.seen, strict=True)]  # before each step
    expected = dict(zip(trace[f"{tag}.step_index"].tolist(), trace[f"{tag}.x_steps"], strict=True))
    assert torch.allclose(states[0], trace[f"{tag}.x_t"], rtol=0, atol=1e-5)
    for index, state in expected.items():
        if index + 1 < len(states):
            # The recording computed beta = 1 - alpha in float32, which cancels: 1e-4 at the smallest of 101 steps.
            assert torch.allclose(states[index + 1], state, rtol=0, atol=1.5e-4), index
    assert torch.allclose(purified, trace[f"{tag}.final01"], rtol=0, atol=1e-4)


def test_the_grid_is_the_papers(mixture):
    assert DP_DDPM(mixture, steps=50).timesteps == DP_DDIM(mixture, steps=50).timesteps == (100, 80, 60, 40, 20, 0)
    assert DP_DDPM(mixture).timesteps == tuple(range(100, -1, -1))
    assert DP_DDIM(mixture).timesteps == tuple(range(100, -1, -10))


@pytest.mark.parametrize(("steps", "calls"), [(50, 6), (100, 11), (200, 21), (500, 51), (1000, 101)])
def test_network_calls_and_gaussians(mixture, images, watched, watched_noise, steps, calls):
    for build, gaussians in ((DP_DDPM, calls), (DP_DDIM, 1)):
        model, noise = watched(mixture), type(watched_noise)()
        build(model, steps=steps)(images, noise)
        assert len(model.seen) == calls
        assert len(set(noise.drawn)) == len(noise.drawn) == gaussians
        assert noise.drawn[0] == ("forward", 0) and {stream for stream, _ in noise.drawn[1:]} <= {"reverse"}


def test_the_mean_is_equation_5_where_nothing_is_clipped(images):
    u, xi_hat = images, torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for t in (100, 50, 1):
        alpha_bar, lower = POWERS[t].item(), POWERS[t - 1].item()
        beta = 1 - alpha_bar / lower
        expected = (u - beta / math.sqrt(1 - alpha_bar) * xi_hat) / math.sqrt(1 - beta)
        mean, variance = ddpm_moments(u, xi_hat, alpha_bar, lower, clip=False)
        assert torch.allclose(mean, expected, rtol=0, atol=1e-12) and variance == pytest.approx(beta)
        close = ddpm_moments(u, 0.01 * xi_hat, alpha_bar, lower)[0]
        assert torch.allclose(close, ddpm_moments(u, 0.01 * xi_hat, alpha_bar, lower, clip=False)[0])


def test_the_clean_image_is_clipped_at_every_step(images):
    class Confused(ScoreModel):
        def forward(self, y, sigma):
            return torch.full_like(y, -50.0)

    # The last step returns the clipped estimate itself; a noise estimate of -50 means a very bright image.
    white = DP_DDIM(Confused()).under("fixed")(images)
    assert torch.allclose(white, torch.ones_like(images), rtol=0, atol=1e-12)
    u = diffuse(2 * images - 1, POWERS[100].item(), torch.zeros_like(images))
    clipped = ddpm_moments(u, torch.full_like(u, -50.0), POWERS[100].item(), POWERS[99].item())[0]
    free = ddpm_moments(u, torch.full_like(u, -50.0), POWERS[100].item(), POWERS[99].item(), clip=False)[0]
    assert (free - clipped).min() > 0.1


def test_known_forward_noise_makes_ddim_deterministic_but_not_ddpm(mixture, images):
    ddpm, ddim = DP_DDPM(mixture, steps=100), DP_DDIM(mixture)
    both, forward = SeededNoise(7), PartlySeededNoise(7, ("forward",))
    assert torch.equal(ddim(images, forward), ddim(images, both))
    with torch.random.fork_rng(devices=[]):
        assert (ddpm(images, forward) - ddpm(images, both)).abs().max() > 1e-3
        assert (ddpm(images, forward) - ddpm(images, forward)).abs().max() > 1e-3
        assert (ddim(images) - ddim(images)).abs().max() > 1e-3
    assert isinstance(ddim.noise, FreshNoise) and isinstance(ddpm.noise, FreshNoise)


# --- a Gaussian world: images N(MEAN, TAU^2)

MEAN, TAU = 0.5, 0.05


def gaussian() -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.full((1, 1, 1, 1), MEAN, dtype=torch.float64), std=TAU)


def test_ddim_converges_to_the_probability_flow():
    x, model = torch.tensor([0.45, 0.5, 0.58], dtype=torch.float64).view(3, 1, 1, 1), gaussian()
    errors = []
    for steps in (10, 50, 1000):
        purifier = DP_DDIM(model, steps=steps, seed=3).under("fixed")
        z = SeededNoise(3).draw("forward", 0, 1, x)[0]
        sigma = math.sqrt(1 / purifier.alpha_bars[0] - 1) / 2
        exact = MEAN + (x + sigma * z - MEAN) * TAU / math.sqrt(TAU**2 + sigma**2)
        errors.append((purifier(x) - exact).abs().max().item())
    assert errors[2] < errors[1] < errors[0] and errors[2] < 2e-3


@pytest.mark.parametrize("build", [DP_DDPM, DP_DDIM])
def test_the_exact_gradient_agrees_with_finite_differences(mixture, images, build):
    purifier = build(mixture, steps=50).under("fixed")
    x = images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"t_star": 1000}, "got 1000"),
        ({"t_star": -1}, "got -1"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 300}, "steps=300"),
        ({"t_star": 75}, "t_star=75"),
        ({"seed": -3}, "-3"),
    ],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    for build in (DP_DDPM, DP_DDIM):
        with pytest.raises(ValueError, match=value):
            build(mixture, **{"steps": 100, **arguments})


def test_an_unknown_variance_is_named(mixture):
    with pytest.raises(ValueError, match="learned"):
        DP_DDPM(mixture, variance="learned")
