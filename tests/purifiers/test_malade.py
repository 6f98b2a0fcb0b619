"""MALADE: the autoencoder itself in the limit (MagNet), equation 11, the cost of N steps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.diffusion import Denoiser, PartlySeededNoise, ScoreModel, SeededNoise
from lit_pursamere.purifiers import MALADE


class Autoencoder(Denoiser):
    """Any network r that denoises, in the role of a score model."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, y: Tensor, sigma: float | Tensor, clean: bool = False) -> Tensor:
        return self.network(y) if clean else (y - self.network(y)) / sigma


@pytest.fixture
def autoencoder() -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(13)
        return Autoencoder(nn.Sequential(nn.Conv2d(2, 4, 1), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Sigmoid()).double())


@pytest.mark.parametrize("sigma2", [0.15, 0.1, 0.000625])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_full_step_without_noise_is_exactly_the_autoencoder(autoencoder, images, watched_noise, sigma2, dtype):
    r, x = autoencoder.to(dtype), images.to(dtype)
    magnet = MALADE(r, sigma2, alpha=sigma2, delta=0, steps=1)
    assert torch.equal(magnet(x, watched_noise), r.network(x)) and watched_noise.drawn == []


def test_the_walk_is_equation_11(autoencoder, images):
    alpha, sigma2, delta, noise = 0.03, 0.15, 0.02, SeededNoise(5)
    x = images
    for k in range(1, 5):
        z = noise.draw("reverse", k, 1, images)[0]
        x = x + alpha * (autoencoder.network(x) - x) / sigma2 + delta * z
    for r in (autoencoder, Residual(autoencoder.network)):  # from the denoiser, or from the noise estimate
        purified = MALADE(r, sigma2, alpha, delta, steps=4, seed=5).under("fixed")(images)
        assert torch.allclose(purified, x.clamp(0, 1), rtol=0, atol=1e-12)


def test_annealed_steps_change_evenly(autoencoder, images, watched_noise):
    sigma2, noise, x = 0.15, SeededNoise(5), images
    for k, (alpha, delta) in enumerate(((0.09, 0.02), (0.06, 0.01), (0.03, 0.0)), start=1):
        z = noise.draw("reverse", k, 1, images)[0]
        x = x + alpha * (autoencoder.network(x) - x) / sigma2 + delta * z
    purifier = MALADE(autoencoder, sigma2, 0.09, 0.02, steps=3, alpha_end=0.03, delta_end=0, seed=5)
    assert torch.allclose(purifier.under("fixed")(images), x.clamp(0, 1), rtol=0, atol=1e-12)
    purifier(images, watched_noise)
    assert watched_noise.drawn == [("reverse", 1), ("reverse", 2)]
    one = MALADE(autoencoder, sigma2, 0.09, 0.02, steps=1, alpha_end=0.03, delta_end=0, seed=5)
    assert one.alphas == (0.09,) and one.deltas == (0.02,), "a single step is the first"


class Residual(Autoencoder):
    denoise = ScoreModel.denoise


def test_network_calls_and_gaussians(mixture, images, watched, watched_noise):
    model = watched(mixture)
    MALADE(model, steps=25)(images, watched_noise)
    assert len(model.seen) == 25 and set(model.sigmas) == {0.15**0.5}  # 0.15 is a variance
    assert watched_noise.drawn == [("reverse", k) for k in range(1, 26)]


def test_steps_may_be_clipped(images):
    class Bright(ScoreModel):
        def forward(self, y, sigma):
            return (y - 2) / sigma  # denoises to 2

    clipped, free = (MALADE(Bright(), 0.1, 0.1, 0, steps=2, clip_steps=clip).under("fixed") for clip in (True, False))
    assert torch.equal(clipped(images), torch.ones_like(images)) and torch.equal(free(images), clipped(images))
    seen = []
    for purifier in (clipped, free):
        seen.append(purifier._step(images, 0.0, alpha=0.1)[0].max().item())
    assert seen == [1.0, 2.0]


def test_noise_is_unknown_to_who_knows_the_forward_draws_only(mixture, images):
    purifier = MALADE(mixture, steps=3)
    with torch.random.fork_rng(devices=[]):
        first, second = (purifier(images, PartlySeededNoise(0, ("forward",))) for _ in range(2))
    assert (first - second).abs().max() > 1e-3


def test_the_exact_gradient_agrees_with_finite_differences(mixture, images):
    x = images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(MALADE(mixture, steps=4).under("fixed"), (x,), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"sigma2": 0.0}, "got 0.0"),
        ({"alpha": -1.0}, "-1.0"),
        ({"delta": -0.5}, "-0.5"),
        ({"delta": math.nan}, "nan"),
        ({"steps": 0}, "and 0"),
        ({"alpha_end": 0.0}, "got 0.0"),
        ({"delta_end": -0.25}, "-0.25"),
        ({"seed": -3}, "-3"),
    ],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        MALADE(mixture, **arguments)
