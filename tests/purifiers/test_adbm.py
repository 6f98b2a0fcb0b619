"""ADBM is five DDIM steps after one diffusion, with the authors' two schedules."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.diffusion import PartlySeededNoise, SeededNoise, VariancePreserving, ddim
from lit_pursamere.purifiers import ADBM

VP = VariancePreserving()


def test_number_of_network_evaluations_and_gaussians(mixture, images, watched, watched_noise):
    model = watched(mixture)
    ADBM(model)(images, watched_noise)
    assert len(model.seen) == 5 and watched_noise.drawn == [("forward", 0)]
    ADBM(model, rounds=3)(images, watched_noise)
    assert len(model.seen) == 5 + 15 and watched_noise.drawn[1:] == [("forward", k) for k in range(3)]


def test_the_network_is_told_the_authors_indices(mixture, images, watched):
    model = watched(mixture)
    ADBM(model)(images)
    labels = 999 * VP.time_of_sigma(2 * torch.tensor(model.sigmas, dtype=torch.float64))
    assert torch.allclose(labels, torch.tensor([99.0, 79, 59, 39, 19], dtype=torch.float64), rtol=0, atol=1e-9)
    assert ADBM(model).start == pytest.approx(0.90369, abs=1e-5)
    assert ADBM(model, schedule="consistent").start == pytest.approx(0.89702, abs=1e-5)


@pytest.mark.parametrize("clip", [True, False])
def test_a_plain_transcription_with_the_network_itself(tiny_scores, clip):
    model = tiny_scores("DDPM++").double()
    generator = torch.Generator().manual_seed(3)
    x = torch.rand((2, 1, 8, 8), generator=generator, dtype=torch.float64)
    powers = torch.cumprod(1 - torch.linspace(1e-6, 0.02, 1000, dtype=torch.float64), 0)
    z = SeededNoise(4).draw("forward", 0, 1, x)[0]
    u = powers[100].sqrt() * (2 * x - 1) + (1 - powers[100]).sqrt() * z
    for i in (99, 79, 59, 39, 19):
        lower = powers[i - 20] if i > 20 else torch.tensor(1.0, dtype=torch.float64)
        xi_hat = model.eval().network(u, torch.full((2,), float(i), dtype=torch.float64))
        clean = (u - (1 - powers[i]).sqrt() * xi_hat) / powers[i].sqrt()
        u = lower.sqrt() * (clean.clamp(-1, 1) if clip else clean) + (1 - lower).sqrt() * xi_hat
    assert torch.allclose(
        ADBM(model, clip=clip, seed=4).under("fixed")(x), ((u + 1) / 2).clamp(0, 1), rtol=0, atol=1e-10
    )


def test_with_one_schedule_and_no_clipping_it_is_ddim_from_level_to_level(mixture, images):
    purifier = ADBM(mixture, schedule="consistent", clip=False, seed=5).under("fixed")
    sigmas = [(1 / power - 1) ** 0.5 / 2 for power in purifier.alpha_bars]
    noisy = images + sigmas[0] * SeededNoise(5).draw("forward", 0, 1, images)[0]
    assert torch.allclose(purifier(images), ddim(mixture, noisy, [*sigmas, 0.0]).clamp(0, 1), rtol=0, atol=1e-12)


def test_a_known_forward_draw_makes_it_deterministic(mixture, images):
    purifier = ADBM(mixture).drawing_from(PartlySeededNoise(3))
    assert torch.equal(purifier(images), purifier(images, SeededNoise(3)))
    with torch.random.fork_rng(devices=[]):
        assert (ADBM(mixture)(images) - purifier(images)).abs().max() > 1e-3


def test_the_exact_gradient_agrees_with_finite_differences_and_without_recomputation(mixture, images):
    purifier, x = ADBM(mixture, rounds=2).under("fixed"), images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)
    (expected,) = torch.autograd.grad(purifier(x).square().sum(), x)
    purifier.recompute = False
    (kept,) = torch.autograd.grad(purifier(x).square().sum(), x)
    assert torch.allclose(kept, expected, rtol=0, atol=1e-12) and expected.norm() > 0


@pytest.mark.parametrize(
    ("arguments", "value"),
    [({"noise_level": 0}, "got 0"), ({"steps": 7}, "7"), ({"rounds": 0}, "and 0"), ({"schedule": "other"}, "other")],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        ADBM(mixture, **arguments)
