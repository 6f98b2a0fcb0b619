"""Likelihood maximisation: a plain loop with torch's Adam in centred pixels, levels, ball and exact gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import FreshNoise, ScoreModel, SeededNoise
from lit_pursamere.purifiers import LikelihoodMaximisation


class Levels(ScoreModel):
    """Passes everything on and remembers the levels of every image."""

    def __init__(self, inner: ScoreModel) -> None:
        super().__init__()
        self.inner, self.levels = inner, []

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        self.levels.append(sigma.detach())
        return self.inner(y, sigma)


def levels(purifier: LikelihoodMaximisation, x: Tensor) -> Tensor:
    purifier.score_model = spy = Levels(purifier.score_model)
    purifier(x)
    return torch.stack(spy.levels)


def test_a_plain_loop_with_torchs_adam_in_centred_pixels_gives_the_same(mixture, images):
    purifier = LikelihoodMaximisation(mixture, seed=3)
    sigmas = levels(LikelihoodMaximisation(mixture, seed=3), images)
    for i in range(3):  # every image alone: a mean over the batch would change Adam's epsilon
        u = (2 * images[i : i + 1] - 1).requires_grad_()
        adam = torch.optim.Adam([u], lr=0.1)
        for k in range(1, 6):
            t, z = 2 * sigmas[k - 1, i], SeededNoise(3).draw("level", k, 2, images)[0]
            denoised = 2 * mixture.denoise((u + t * z + 1) / 2, t / 2) - 1
            adam.zero_grad()
            (denoised - u).square().mean().backward()
            adam.step()
        expected = ((u.detach() + 1) / 2).clamp(0, 1)
        assert torch.allclose(purifier(images[i : i + 1]), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("lam", [1e-3, 1.0])
def test_guidance_is_the_confidence_of_a_linear_classifier_beside_the_mean_error(
    mixture, images, linear_classifier, lam
):
    """By hand: half of W_y - sum_k p_k W_k by centred pixels, for the best class of every step."""
    weight = linear_classifier[1].weight.detach()
    sigmas = levels(LikelihoodMaximisation(mixture, seed=3), images)[:, 0]
    u = (2 * images[:1] - 1).requires_grad_()
    adam = torch.optim.Adam([u], lr=0.1)
    for k in range(1, 6):
        t, z = 2 * sigmas[k - 1], SeededNoise(3).draw("level", k, 2, images)[0]
        denoised = 2 * mixture.denoise((u + t * z + 1) / 2, t / 2) - 1
        adam.zero_grad()
        (denoised - u).square().mean().backward()
        p = (((u.detach() + 1) / 2).flatten(1) @ weight.T).softmax(1)
        u.grad -= lam * 0.5 * (weight[p.argmax(1)] - p @ weight).reshape(u.shape)
        adam.step()
    purifier = LikelihoodMaximisation(mixture, classifier=linear_classifier, lam=lam, seed=3)
    assert torch.allclose(purifier(images[:1]), ((u.detach() + 1) / 2).clamp(0, 1), rtol=0, atol=1e-10)


def test_guidance_raises_the_confidence_of_the_classifier_of_the_defence(mixture, images, linear_classifier):
    def confidence(lam: float) -> float:
        defense = Defense(LikelihoodMaximisation(mixture, lam=lam), linear_classifier)
        return defense(images).log_softmax(1).amax(1).mean().item()

    assert confidence(0) < confidence(1e-3) < confidence(1)
    with pytest.raises(ValueError, match="LikelihoodMaximisation is guided by a classifier"):
        LikelihoodMaximisation(mixture, lam=1.0)(images)


def test_without_guidance_the_defence_changes_nothing(mixture, linear_classifier):
    purifier = LikelihoodMaximisation(mixture)
    assert purifier.in_front_of(linear_classifier) is purifier and purifier.settings["classifier"] is None


def test_network_calls_and_gaussians(mixture, images, watched_noise):
    purifier = LikelihoodMaximisation(mixture)
    purifier.score_model = spy = Levels(mixture)
    purifier(images, watched_noise)
    assert len(spy.levels) == 5
    assert watched_noise.drawn == [("level", k) for k in range(1, 6) for _ in range(2)]  # one chooses the level


def test_levels_are_uniform_shared_when_seeded_and_each_images_own_when_fresh(mixture, images):
    seeded = levels(LikelihoodMaximisation(mixture, steps=20), images)
    assert torch.equal(seeded, seeded[:, :1].expand_as(seeded)) and len(seeded[:, 0].unique()) == 20
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = levels(LikelihoodMaximisation(mixture, steps=100).under("fresh"), images.repeat(10, 1, 1, 1)).flatten()
    assert fresh.min() >= 0.2 and fresh.max() <= 0.3
    assert fresh.mean().item() == pytest.approx(0.25, abs=5 * 0.1 / math.sqrt(12 * len(fresh)))
    assert fresh.var().item() == pytest.approx(0.01 / 12, rel=0.05)


def test_it_is_deterministic_as_the_authors_reseeding_makes_it(mixture, images):
    purifier = LikelihoodMaximisation(mixture)
    assert purifier.noise == SeededNoise(1) and torch.equal(purifier(images), purifier(images))
    assert isinstance(LikelihoodMaximisation(mixture).under("fresh").noise, FreshNoise)


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.1])
def test_the_result_stays_in_the_ball(mixture, images, rho):
    moved = (LikelihoodMaximisation(mixture, rho=rho)(images) - images).flatten(1).norm(dim=1)
    assert moved.max() <= rho + 1e-12
    assert torch.allclose(moved, torch.full_like(moved, rho))


@pytest.mark.parametrize(("rho", "lam"), [(0.05, 0.0), (100.0, 0.0), (100.0, 0.1)])
def test_the_exact_gradient_agrees_with_finite_differences(mixture, images, smooth_classifier, rho, lam):
    purifier = LikelihoodMaximisation(mixture, steps=3, rho=rho, classifier=smooth_classifier, lam=lam)
    x = images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-7, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_finite_where_the_error_is_flat(images):
    class Flat(ScoreModel):
        def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
            return y * 0

    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LikelihoodMaximisation(Flat())(x).sum(), x)
    assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"steps": 0}, "got 0"),
        ({"lr": 0.0}, "0.0 and"),
        ({"rho": -1.0}, "-1.0"),
        ({"sigma_min": 0.0}, "got 0.0"),
        ({"sigma_min": 0.4}, "0.4, 0.3"),
        ({"lam": -0.5}, "needs lam >= 0; got -0.5"),
        ({"seed": -3}, "-3"),
    ],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        LikelihoodMaximisation(mixture, **arguments)
