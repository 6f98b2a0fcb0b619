"""Objectives draw and weigh the noise as their papers say; each one's sampler finds the data of a closed-form world."""

from __future__ import annotations

import math

import pytest
import torch

from lit_pursamere.diffusion import (
    AutoencoderScore,
    DAEObjective,
    DDPMObjective,
    EDMObjective,
    GaussianMixtureScore,
    LogUniformObjective,
    NCSNObjective,
    NoiseLevels,
    VariancePreserving,
    VPObjective,
    expected_reconstruction_error,
)

VP = VariancePreserving()
OBJECTIVES = {
    "ncsn": NCSNObjective(NoiseLevels(5.0, 0.01, 60), step_size=2e-5),
    "ddpm": DDPMObjective(),
    "vp": VPObjective(),
    "edm": EDMObjective(steps=60),
    "log-uniform": LogUniformObjective(sigma_max=4.0, steps=60),
    "dae": DAEObjective(sigma2=5e-4, alpha=1e-3, steps=60),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_ncsn_levels_are_uniform():
    objective = NCSNObjective([3.0, 2.0, 1.0])
    drawn = objective.draw_levels(30_000, generator())
    counts = torch.stack([(drawn == level).sum() for level in (3.0, 2.0, 1.0)])
    assert counts.sum() == 30_000 and (counts - 10_000).abs().max() < 400
    assert objective.weight(drawn, 12).unique().tolist() == [0.5]


def test_ddpm_draws_the_levels_of_the_table():
    drawn = DDPMObjective().draw_levels(20_000, generator())
    table = (VP.sigma_table / 2).float()
    index = torch.searchsorted(table, drawn)
    assert torch.equal(table[index], drawn)
    assert abs(index.double().mean() - 499.5) < 8 and index.min() < 5 and index.max() > 994


def test_vp_times_are_uniform():
    times = VP.time_of_sigma(2 * VPObjective().draw_levels(20_000, generator()).double())
    assert times.min() >= 0.9e-5 and times.max() <= 1 + 1e-6
    assert abs(times.mean() - 0.5) < 0.01 and abs(times.var() - 1 / 12) < 0.003


def test_edm_levels_are_log_normal_in_centred_pixels():
    logs = (2 * EDMObjective().draw_levels(40_000, generator())).log()
    assert abs(logs.mean() + 1.2) < 0.03 and abs(logs.std() - 1.2) < 0.02


def test_log_uniform_levels_give_every_octave_alike():
    logs = LogUniformObjective(0.8, 0.1).draw_levels(30_000, generator()).log2()
    counts = torch.histc(logs, 3, min=math.log2(0.1), max=math.log2(0.8))
    assert counts.sum() == 30_000 and (counts - 10_000).abs().max() < 400


def test_log_uniform_weighs_levels_as_edm_does():
    sigma = torch.tensor([0.01, 0.3, 1.0], dtype=torch.float64)
    assert torch.equal(LogUniformObjective().weight(sigma, 12), EDMObjective().weight(sigma, 12))


def test_edm_weighting_is_karras_weighting_of_the_denoising_error():
    sigma_u, data_std = torch.tensor([0.01, 0.3, 5.0], dtype=torch.float64), 0.5
    karras = (sigma_u**2 + data_std**2) / (sigma_u * data_std) ** 2  # weighs ||D - u||^2 = sigma_u^2 R
    assert torch.allclose(EDMObjective().weight(sigma_u / 2, 12), karras * sigma_u**2)


def test_noise_prediction_losses_are_means_over_pixels():
    for objective in (DDPMObjective(), VPObjective()):
        assert objective.weight(torch.ones(2), 12).tolist() == pytest.approx([1 / 12, 1 / 12])


def test_dae_loss_is_the_denoising_error_summed_over_pixels(images):
    sigma2, network = 0.15, torch.nn.Sigmoid()
    objective, model = DAEObjective(sigma2), AutoencoderScore(network, sigma2)
    sigma = objective.draw_levels(len(images))
    assert (sigma.double() ** 2).tolist() == pytest.approx([0.15] * len(images))  # a variance, always the same
    noise = torch.randn((1, *images.shape), generator=generator(), dtype=images.dtype)
    found = objective.weight(sigma, images[0].numel()) * expected_reconstruction_error(model, images, sigma, noise)
    expected = (network(images + sigma2**0.5 * noise[0]) - images).square().flatten(1).sum(1)
    assert torch.allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_levels_decrease_and_cover_the_draws(objective):
    levels = torch.tensor(objective.levels)
    assert (levels.diff() < 0).all() and levels[-1] > 0
    drawn = objective.draw_levels(2000, generator())
    covered = (drawn <= levels[0] * 1.0001) & (drawn >= levels[-1] * 0.9999)
    assert covered.float().mean() > 0.99


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_draws_follow_the_generator(objective):
    first = objective.draw_levels(20, generator(1))
    assert torch.equal(objective.draw_levels(20, generator(1)), first)
    assert len(objective.levels) == 1 or not torch.equal(objective.draw_levels(20, generator(2)), first)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_samples_have_the_distribution_of_the_data(objective):
    mean, tau = 0.4, 0.1
    model = GaussianMixtureScore(torch.full((1, 1, 2, 2), mean), std=tau)
    samples = objective.sample(model, (500, 1, 2, 2), generator())
    assert samples.mean().item() == pytest.approx(mean, abs=0.01)
    assert samples.std().item() == pytest.approx(tau, rel=0.08)
    assert torch.equal(samples, objective.sample(model, (500, 1, 2, 2), generator()))


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (lambda: NCSNObjective([0.1, 0.2]), "0.2"),
        (lambda: NCSNObjective([]), r"\[\]"),
        (lambda: NCSNObjective([0.1, 0.0]), "0.0"),
        (lambda: NCSNObjective(step_size=0), "got 0"),
        (lambda: VPObjective(steps=0), "got 0"),
        (lambda: VPObjective(t_min=1.5), "1.5"),
        (lambda: DDPMObjective(steps=0), "got 0"),
        (lambda: EDMObjective(std=-1), "-1"),
        (lambda: EDMObjective(steps=1), "1"),
        (lambda: EDMObjective(mean=math.nan), "nan"),
        (lambda: LogUniformObjective(sigma_min=0.0), "0.0"),
        (lambda: LogUniformObjective(sigma_max=0.005), "0.005"),
        (lambda: LogUniformObjective(data_std=-0.5), "-0.5"),
        (lambda: LogUniformObjective(steps=1), "1$"),
        (lambda: DAEObjective(sigma2=0), "got 0"),
        (lambda: DAEObjective(alpha=-0.5), "-0.5"),
        (lambda: DAEObjective(steps=0), "and 0"),
    ],
)
def test_bad_arguments_are_named(build, value):
    with pytest.raises(ValueError, match=value):
        build()
