"""Annealed Langevin dynamics on a Gaussian keeps samples Gaussian, so their moments follow an exact recursion."""

from __future__ import annotations

import torch

from lit_pursamere.diffusion import GaussianMixtureScore, NoiseLevels, annealed_langevin

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
