"""DiffPure repeats the recorded runs of the authors' code and its flow converges on a Gaussian."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_pursamere.diffusion import (
    DDPMppScore,
    FreshNoise,
    GaussianMixtureScore,
    PartlySeededNoise,
    SeededNoise,
    VariancePreserving,
)
from lit_pursamere.purifiers import DiffPure

VP = VariancePreserving()
MEAN, STD = 0.4, 0.1  # of a Gaussian world, in pixel units
MU, TAU = 2 * MEAN - 1, 2 * STD  # centred


@pytest.fixture
def gaussian() -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.full((1, 1, 2, 2), MEAN, dtype=torch.float64), std=STD)


@pytest.fixture
def released(golden) -> DDPMppScore:
    file = str(golden / "score_sde/ddpmpp_small_checkpoint.pth")
    return DDPMppScore(nf=16, num_res_blocks=2, checkpoint=file)


def state_variance(alpha_bar: float) -> float:
    return alpha_bar * TAU**2 + 1 - alpha_bar


# --- recorded runs


def test_every_recorded_state_of_ten_steps(golden_tensors, released, recorded_noise, watched):
    data, model = golden_tensors("score_sde/diffpure_trace"), watched(released)
    purifier = DiffPure(model, dt=1e-2)
    with torch.no_grad():
        purified = purifier((data["x0"] + 1) / 2, recorded_noise(data["noise_forward"][None], data["z"]))
    starts = torch.tensor([step.t for step in purifier.steps], dtype=torch.float64)
    ends = torch.tensor([step.t - step.dt for step in purifier.steps], dtype=torch.float64)
    assert torch.allclose(1 - data["times"].double(), torch.stack([starts, ends], 1), rtol=0, atol=1e-6)
    states = [(2 * y - 1) * step.alpha_bar**0.5 for y, step in zip(model.seen, purifier.steps, strict=True)]
    recorded = torch.cat([data["x_t"][None], data["x_steps"][:-1]])
    assert torch.allclose(torch.stack(states), recorded, rtol=0, atol=1e-4)
    assert torch.allclose(purified, ((data["x_final_sdeint"] + 1) / 2).clamp(0, 1), rtol=0, atol=1e-4)


def test_recorded_official_run_of_a_hundred_steps(golden_tensors, released, recorded_noise):
    data = golden_tensors("score_sde/diffpure_trace")
    generator = torch.Generator().manual_seed(50500)
    forward = torch.randn(data["x0"].shape, generator=generator)
    assert torch.allclose(forward, data["long.noise_forward"], rtol=0, atol=1e-6)
    reverse = torch.stack([torch.randn((2, 3072), generator=generator).reshape(2, 3, 32, 32) for _ in range(100)])
    with torch.no_grad():
        purified = DiffPure(released)((data["x0"] + 1) / 2, recorded_noise(forward[None], reverse))
    assert torch.allclose(purified, ((data["long.x_final"] + 1) / 2).clamp(0, 1), rtol=0, atol=1e-4)


# --- cost and noise


@pytest.mark.parametrize(("sampler", "reverse"), [("sde", 100), ("ode", 0)])
def test_number_of_network_evaluations_and_gaussians(gaussian, images, watched, watched_noise, sampler, reverse):
    model = watched(gaussian)
    DiffPure(model, sampler=sampler)(images[:1, :1], watched_noise)
    assert len(model.seen) == 100
    assert watched_noise.drawn == [("forward", 0), *(("reverse", k) for k in range(1, reverse + 1))]


def test_with_a_known_forward_draw_the_flow_is_deterministic_and_the_sde_is_not(mixture, images):
    flow, sde = (DiffPure(mixture, sampler=s, dt=0.02).drawing_from(PartlySeededNoise(3)) for s in ("ode", "sde"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert torch.equal(flow(images), flow(images))
        assert torch.equal(flow(images), flow(images, SeededNoise(3)))
        assert (sde(images) - sde(images)).abs().max() > 1e-3
        assert (DiffPure(mixture, sampler="ode", dt=0.02)(images) - flow(images)).abs().max() > 1e-3
    assert torch.equal(sde(images, SeededNoise(3)), sde(images, SeededNoise(3)))


def test_authors_defaults():
    start = [VP.start(t) for t in (0.075, 0.1, 0.125)]
    assert DiffPure(GaussianMixtureScore(torch.zeros(1, 1, 1, 1))).alpha_bar == pytest.approx(0.89702, abs=1e-5)
    assert start == sorted(start, reverse=True)
    assert isinstance(DiffPure(GaussianMixtureScore(torch.zeros(1, 1, 1, 1))).noise, FreshNoise)


# --- a Gaussian world


def test_the_flow_converges_to_the_map_between_gaussians(gaussian):
    """The probability flow keeps (u - sqrt(alpha_bar) mu) / std of the marginal; Euler's error falls with dt."""
    x = torch.tensor([0.35, 0.4, 0.43, 0.5], dtype=torch.float64).reshape(1, 1, 2, 2)
    power = VP.start(0.1, "continuous")
    u = power**0.5 * (2 * x - 1) + (1 - power) ** 0.5 * SeededNoise(0).draw("forward", 0, 1, x)[0]
    exact = MU + TAU / state_variance(power) ** 0.5 * (u - power**0.5 * MU)
    errors = []
    for dt in (4e-3, 1e-3, 2.5e-4):
        purified = DiffPure(gaussian, sampler="ode", dt=dt, t_end=0, start="continuous").under("fixed")(x)
        errors.append((2 * purified - 1 - exact).abs().max().item())
    assert errors[2] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2) and errors[1] / errors[2] == pytest.approx(4, rel=0.1)


# --- gradients and arguments


@pytest.mark.parametrize("build", [
    lambda model: DiffPure(model, dt=0.03).under("fixed"),
    lambda model: DiffPure(model, dt=0.03, sampler="ode").under("fixed"),
], ids=["sde", "ode"])  # fmt: skip
def test_the_exact_gradient_agrees_with_finite_differences_and_without_recomputation(mixture, images, build):
    purifier, x = build(mixture), images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)
    (expected,) = torch.autograd.grad(purifier(x).square().sum(), x)
    purifier.recompute = False
    (kept,) = torch.autograd.grad(purifier(x).square().sum(), x)
    assert torch.allclose(kept, expected, rtol=0, atol=1e-12) and expected.norm() > 0


def test_the_gradient_through_a_network_agrees_with_finite_differences(tiny_scores):
    purifier = DiffPure(tiny_scores("DDPM++").double(), dt=0.05).under("fixed")
    generator = torch.Generator().manual_seed(3)
    x, direction, weight = (torch.randn((1, 1, 8, 8), generator=generator, dtype=torch.float64) for _ in range(3))
    x = (0.5 + 0.1 * x).requires_grad_()
    (gradient,) = torch.autograd.grad((purifier(x) * weight).sum(), x)
    with torch.no_grad():
        step = 1e-6 * direction
        difference = ((purifier(x + step) - purifier(x - step)) * weight).sum() / 2e-6
    assert torch.allclose((gradient * direction).sum(), difference, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"t_star": 0.0}, "0.0"),
        ({"t_star": 1.5}, "1.5"),
        ({"t_end": 0.2}, "0.2"),
        ({"dt": -1.0}, "-1.0"),
        ({"sampler": "heun"}, "heun"),
        ({"start": "late"}, "late"),
        ({"seed": -3}, "-3"),
        ({"seed": "frozen"}, "frozen"),
    ],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        DiffPure(mixture, **arguments)


def test_an_image_is_given_back_in_its_box(mixture, images: Tensor):
    far = torch.cat([torch.zeros_like(images), torch.ones_like(images)])
    assert ((DiffPure(mixture, dt=0.02).under("fixed")(far) - 0.5).abs() <= 0.5).all()
