"""Samplers on a Gaussian follow exact recursions and flows."""

from __future__ import annotations

import math

import pytest
import torch

from lit_pursamere.diffusion import (
    GaussianMixtureScore,
    NoiseLevels,
    adjusted_langevin_step,
    annealed_langevin,
    ddim,
    heun,
    langevin_step,
)

MEAN, TAU, STEP_SIZE, STEPS = 0.4, 0.1, 4e-5, 15
SIGMAS = NoiseLevels(1.0, 0.02, 30).values


def sample(count: int, seed: int) -> torch.Tensor:
    model = GaussianMixtureScore(torch.full((1, 1, 2, 2), MEAN), std=TAU).double()
    start = torch.rand((count, 1, 2, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return annealed_langevin(model, start, SIGMAS, STEP_SIZE, STEPS, torch.Generator().manual_seed(seed))


def exact_moments() -> tuple[float, float]:
    mean, variance = 0.5, 1 / 12
    for sigma in SIGMAS:
        step = STEP_SIZE * (sigma / SIGMAS[-1]) ** 2
        keep = 1 - step / (TAU**2 + sigma**2)
        for _ in range(STEPS):
            mean, variance = MEAN + keep * (mean - MEAN), keep**2 * variance + 2 * step
    shrink = TAU**2 / (TAU**2 + SIGMAS[-1] ** 2)
    return MEAN + shrink * (mean - MEAN), shrink * variance**0.5


def test_samples_have_the_exact_moments_of_the_recursion_and_nearly_those_of_the_data():
    samples = sample(10_000, seed=0)
    mean, std = exact_moments()
    error = std / samples.numel() ** 0.5
    assert abs(samples.mean().item() - mean) < 5 * error
    assert abs(samples.std().item() - std) < 5 * error
    assert abs(mean - MEAN) < 0.02 and abs(std - TAU) < 0.1 * TAU


def test_a_seeded_generator_repeats_and_leaves_the_global_one_alone():
    before = torch.get_rng_state()
    first = sample(3, seed=0)
    assert torch.equal(first, sample(3, seed=0))
    assert not torch.equal(first, sample(3, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def gaussian_flow(x, mean, tau, sigmas):
    """Solve dx / dsigma = xi_hat for one Gaussian: distances to the mean shrink with sqrt(tau^2 + sigma^2)."""
    end = math.sqrt(tau**2 + sigmas[-1] ** 2) / math.sqrt(tau**2 + sigmas[0] ** 2)
    return mean + (x - mean) * end


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (heun, 2)])
def test_deterministic_samplers_converge_to_the_flow_with_their_order(sampler, order):
    mean, tau = 0.4, 0.3
    model = GaussianMixtureScore(torch.full((1, 1, 2, 2), mean, dtype=torch.float64), std=tau)
    x = torch.randn((3, 1, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    errors = []
    for steps in (64, 128):
        sigmas = torch.linspace(math.log(5), math.log(0.1), steps + 1, dtype=torch.float64).exp().tolist()
        errors.append((sampler(model, x, sigmas) - gaussian_flow(x, mean, tau, sigmas)).norm())
    assert errors[1] > 1e-9
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("sampler", [ddim, heun])
def test_a_last_level_of_zero_denoises(sampler, mixture, images):
    assert torch.allclose(sampler(mixture, images, [0.2, 0.0]), mixture.denoise(images, 0.2), atol=1e-12)


def test_network_calls():
    class Counting(GaussianMixtureScore):
        calls = 0

        def forward(self, y, sigma):
            self.calls += 1
            return super().forward(y, sigma)

    for sampler, calls in ((ddim, 5), (heun, 9)):
        model = Counting(torch.zeros(1, 1, 2, 2))
        sampler(model, torch.zeros(1, 1, 2, 2), [5.0, 3.0, 2.0, 1.0, 0.5, 0.0])
        assert model.calls == calls


# --- Metropolis-adjusted Langevin

PEAKS, WIDTH, LEVEL = (0.35, 0.65), 0.1, 1e-3  # of a mixture in one dimension, looked at next to no noise


def mixture_world(means=PEAKS):
    """Exact score model of a 1-D mixture, its log density, and its variance."""
    centres = torch.tensor(means, dtype=torch.float64)
    variance = WIDTH**2 + LEVEL**2
    normal = torch.distributions.Normal(centres, math.sqrt(variance))
    model = GaussianMixtureScore(centres.reshape(-1, 1, 1, 1), std=WIDTH)

    def log_density(x):
        return normal.log_prob(x.flatten(1)).logsumexp(1)

    return model, log_density, variance + centres.var(correction=0).item()


def chains(step, adjusted, means=PEAKS, count=20_000, steps=150):
    """Ends of many chains from 0.5, and the share of accepted steps."""
    model, log_density, _ = mixture_world(means)
    rng, accepted = torch.Generator().manual_seed(2), torch.zeros(count)
    x = torch.full((count, 1, 1, 1), 0.5, dtype=torch.float64)
    for _ in range(steps):
        z = torch.randn(x.shape, generator=rng, dtype=x.dtype)
        uniform = torch.rand(count, generator=rng, dtype=x.dtype)
        if adjusted:
            x, kept = adjusted_langevin_step(log_density, lambda x: model.score(x, LEVEL), x, step, z, uniform)
            accepted += kept
        else:
            x = langevin_step(model, x, LEVEL, step, z)
    return x, accepted.mean().item() / steps


@pytest.mark.parametrize("means", [(0.5,), PEAKS], ids=["gaussian", "mixture"])
def test_rejections_remove_the_bias_of_langevin(means):
    """Unadjusted, the variance v of a Gaussian becomes v / (1 - step / (2 v)); adjusted, it stays."""
    variance = mixture_world(means)[2]
    step = WIDTH**2
    adjusted, rate = chains(step, True, means)
    unadjusted, _ = chains(step, False, means)
    error = 5 * math.sqrt(2 / len(adjusted))  # relative, of the variance of a Gaussian; that of a mixture is smaller
    assert adjusted.var().item() == pytest.approx(variance, rel=error)
    assert adjusted.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(variance / len(adjusted)))
    assert 0.5 < rate < 0.99
    if len(means) == 1:
        assert unadjusted.var().item() == pytest.approx(variance / (1 - step / (2 * variance)), rel=error)
    assert unadjusted.var().item() > (1 + 2 * error) * variance


def test_a_step_is_kept_with_metropolis_probability_and_otherwise_nothing_moves():
    model, log_density, _ = mixture_world()
    rng, step = torch.Generator().manual_seed(3), 0.02
    x, z = (torch.randn((50, 1, 1, 1), generator=rng, dtype=torch.float64) for _ in range(2))
    x = 0.5 + 0.1 * x

    def proposal(a):
        mean = a + step * model.score(a, LEVEL)
        return torch.distributions.Normal(mean.flatten(), math.sqrt(2 * step))

    proposed = langevin_step(model, x, LEVEL, step, z)
    back, forth = proposal(proposed).log_prob(x.flatten()), proposal(x).log_prob(proposed.flatten())
    probability = (log_density(proposed) + back - log_density(x) - forth).exp().clamp_max(1)
    assert (probability < 0.9).any() and (probability == 1).any()
    for uniform, expected in (
        (probability * (1 - 1e-9), torch.ones_like(probability, dtype=torch.bool)),
        ((probability * (1 + 1e-9)).clamp_max(1 - 1e-9), probability == 1),
    ):
        after, kept = adjusted_langevin_step(log_density, lambda x: model.score(x, LEVEL), x, step, z, uniform)
        assert torch.equal(kept, expected)
        assert torch.equal(after[kept], proposed[kept]) and torch.equal(after[~kept], x[~kept])
