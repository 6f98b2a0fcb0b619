"""DP_EDM: a plain transcription in centred pixels on the recorded network, the paper's costs, exact worlds."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lit_pursamere.diffusion import EDMScore, GaussianMixtureScore, ScoreModel, SeededNoise
from lit_pursamere.purifiers import DP_EDM


def transcription(model: ScoreModel, x: Tensor, noise: SeededNoise, s_churn: float, levels: int = 50) -> Tensor:
    """The sampler in centred pixels with the denoiser D_u and the paper's constants."""

    def denoised(y: Tensor, t: float) -> Tensor:
        return 2 * model.denoise((y + 1) / 2, t / 2) - 1

    grid = [(0.5 ** (1 / 7) + i / (levels - 1) * (0.002 ** (1 / 7) - 0.5 ** (1 / 7))) ** 7 for i in range(levels)] + [0]
    y = 2 * x - 1 + 0.5 * noise.draw("forward", 0, 1, x)[0]
    for i in range(levels):
        gamma = min(s_churn / levels, math.sqrt(2) - 1) if 0.01 <= grid[i] <= 0.46 else 0
        raised = grid[i] * (1 + gamma)
        y = y + math.sqrt(raised**2 - grid[i] ** 2) * 1.007 * noise.draw("reverse", i + 1, 1, x)[0]
        slope = (y - denoised(y, raised)) / raised
        following = y + (grid[i + 1] - raised) * slope
        if grid[i + 1] > 0:
            second = (following - denoised(following, grid[i + 1])) / grid[i + 1]
            following = y + (grid[i + 1] - raised) * (slope + second) / 2
        y = following
    return ((y + 1) / 2).clamp(0, 1)


@pytest.mark.parametrize("s_churn", [6.0, 0.0], ids=["SDE", "ODE"])
def test_the_sampler_is_the_papers_on_the_recorded_network(golden: Path, golden_tensors, s_churn):
    data = golden_tensors("edm/songunet_small")
    file = golden / "edm/songunet_small_official_layout.pkl"
    model = EDMScore(model_channels=16, num_blocks=1, checkpoint=str(file)).eval()
    with torch.no_grad():  # the network that the transcription uses is the recorded one
        denoised = 2 * model.denoise((data["x_noisy"] + 1) / 2, 0.25 / 2) - 1
    assert (denoised - data["edm.D_scalar_sigma0.25"]).norm() < 1e-5 * denoised.norm()
    model, x = model.double(), ((data["x"][:1] + 1) / 2).clamp(0, 1).double()
    with torch.no_grad():
        purified, expected = (
            DP_EDM(model, steps=15, s_churn=s_churn, seed=4).under("fixed")(x),
            transcription(model, x, SeededNoise(4), s_churn, levels=15),
        )
    assert (purified - x).abs().max() > 0.05
    assert torch.allclose(purified, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("s_churn", [6.0, 0.0], ids=["SDE", "ODE"])
def test_network_calls_and_gaussians(mixture, images, watched, watched_noise, s_churn):
    model = watched(mixture)
    purifier = DP_EDM(model, s_churn=s_churn)
    purifier(images, watched_noise)
    assert len(model.seen) == 99
    window = [k for k, sigma in enumerate(purifier.sigmas[:-1], start=1) if 0.01 <= 2 * sigma <= 0.46]
    assert purifier.sigmas[0] == pytest.approx(0.25) and purifier.sigmas[-2:] == pytest.approx((0.001, 0))
    assert 0 < len(window) < 50 and 1 not in window
    expected = [("forward", 0), *[("reverse", k) for k in window if s_churn]]
    assert watched_noise.drawn == expected and len(expected) <= 51


def test_churn_is_012_within_the_window_only(mixture):
    purifier = DP_EDM(mixture)
    for sigma, gamma in zip(purifier.sigmas, purifier.gammas, strict=False):
        assert gamma == pytest.approx(0.12 if 0.01 <= 2 * sigma <= 0.46 else 0.0)
    assert set(DP_EDM(mixture, s_churn=0).gammas) == {0.0}
    assert max(DP_EDM(mixture, s_churn=1000).gammas) == pytest.approx(math.sqrt(2) - 1)


# --- a Gaussian world: images N(MEAN, TAU^2)

MEAN, TAU = 0.5, 0.05


def gaussian() -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.full((1, 1, 1, 1), MEAN, dtype=torch.float64), std=TAU)


def test_the_ode_converges_to_the_probability_flow_with_second_order():
    x = torch.tensor([0.45, 0.5, 0.58], dtype=torch.float64).view(3, 1, 1, 1)
    start = x + 0.25 * SeededNoise(5).draw("forward", 0, 1, x)[0]
    exact = MEAN + (start - MEAN) * TAU / math.sqrt(TAU**2 + 0.25**2)
    errors = [
        (DP_EDM(gaussian(), s_churn=0, steps=n, sigma_min=1e-4, seed=5).under("fixed")(x) - exact).abs().max()
        for n in (25, 50, 100)
    ]
    assert errors[1] < 3e-4
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("s_churn", [6.0, 0.0], ids=["SDE", "ODE"])
def test_the_exact_gradient_agrees_with_finite_differences(mixture, images, s_churn):
    purifier = DP_EDM(mixture, steps=6, s_churn=s_churn).under("fixed")
    x = images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"sigma_max": 0.0}, "0.001, 0.0"),
        ({"sigma_min": 0.3}, "0.3, 0.25"),
        ({"sigma_min": 0.0}, "0.0, 0.25"),
        ({"rho": 0.0}, "0.0 and 50"),
        ({"steps": 1}, "and 1"),
        ({"s_churn": -1.0}, "got -1.0"),
        ({"s_noise": math.nan}, "nan"),
        ({"seed": -3}, "-3"),
    ],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        DP_EDM(mixture, **arguments)
