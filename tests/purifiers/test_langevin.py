"""Langevin: the score model's own sampler from the image down."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.diffusion import NoiseLevels, SeededNoise, annealed_langevin
from lit_pursamere.purifiers import Langevin


def test_it_is_the_sampler_with_named_noise(mixture, images, monkeypatch):
    sigmas = [0.2, 0.1, 0.05]
    draws = [SeededNoise(4).draw("reverse", k, 1, images)[0] for k in range(1, 10)]
    purified = Langevin(mixture, sigmas, 1e-4, 3, seed=4).under("fixed")(images)
    monkeypatch.setattr(torch, "randn", lambda *_, **__: draws.pop(0))
    expected = annealed_langevin(mixture, images, sigmas, 1e-4, 3)
    assert not draws and torch.equal(purified, expected.clamp(0, 1))


def test_network_calls_gaussians_and_levels(mixture, images, watched, watched_noise):
    model = watched(mixture)
    purifier = Langevin(model)
    purifier(images, watched_noise)
    levels = len(NoiseLevels(first=0.1).values)
    assert (levels, len(model.seen)) == (len(purifier.sigmas), 5 * levels + 1)
    assert watched_noise.drawn == [("reverse", k) for k in range(1, 5 * levels + 1)]
    assert purifier.sigmas[0] <= 0.1 and purifier.sigmas[-1] == pytest.approx(0.01)
    assert len(model.seen) == 316


def test_without_the_last_denoising_the_last_state_is_returned(mixture, images):
    state = Langevin(mixture, [0.1], 1e-4, 3, denoise=False, seed=1).under("fixed")(images)
    assert torch.equal(
        Langevin(mixture, [0.1], 1e-4, 3, seed=1).under("fixed")(images), mixture.denoise(state, 0.1).clamp(0, 1)
    )


def test_the_exact_gradient_agrees_with_finite_differences(mixture, images):
    purifier = Langevin(mixture, [0.2, 0.1], 1e-3, 3).under("fixed")
    x = images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"sigmas": []}, r"got \[\]"),
        ({"sigmas": [0.1, 0.2]}, r"\[0.1, 0.2\]"),
        ({"sigmas": [0.1, 0.0]}, r"\[0.1, 0.0\]"),
        ({"step_size": 0.0}, "got 0.0"),
        ({"steps_per_level": 0}, "and 0"),
        ({"seed": -3}, "-3"),
    ],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        Langevin(mixture, **arguments)
