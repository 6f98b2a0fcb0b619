"""The template of all purifiers: whose noise is drawn, what is clamped, and how a step is computed a second time."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.diffusion import AutoencoderScore, FreshNoise, NoiseSource, SeededNoise
from lit_pursamere.networks import DenoisingAutoencoder
from lit_pursamere.purifiers import DP_DDPM, MALADE, DiffPure, Identity, Purifier

PURIFIERS = {
    "recomputed": lambda model: DP_DDPM(model, steps=20).under("fixed"),
    "adjoint": lambda model: DiffPure(model, dt=0.05).under("fixed"),
}


def gradient(purifier, x):
    """d(sum of squares)/dx, taken after the block of mixed precision has been left, as training loops do."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = purifier(x).square().sum()
    return torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("kind", PURIFIERS)
def test_the_way_back_has_the_precision_of_the_way_there(kind, tiny_scores):
    purifier, x = (
        PURIFIERS[kind](tiny_scores("EDM")),
        torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
    )
    if kind == "adjoint":
        purifier.adjoint = True
        with torch.autocast("cpu", torch.bfloat16):
            inside = x.clone().requires_grad_()
            (expected,) = torch.autograd.grad(purifier(inside).square().sum(), inside)
    else:
        purifier.recompute = False
        expected = gradient(purifier, x)
        purifier.recompute = True
    assert torch.allclose(gradient(purifier, x), expected, rtol=1e-5, atol=1e-6) and expected.abs().max() > 1e-2
    plain = x.clone().requires_grad_()
    (full,) = torch.autograd.grad(purifier(plain).square().sum(), plain)
    assert not torch.allclose(full, expected, rtol=1e-5, atol=1e-6), "else nothing was computed in bfloat16"


def test_malade_walks_in_the_images_own_precision():
    model = AutoencoderScore(DenoisingAutoencoder(1, 4))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert MALADE(model, steps=2).under("fixed")(torch.rand(2, 1, 8, 8)).dtype == torch.float32


class Shift(Purifier):
    """Adds a Gaussian; remembers the source that it was given."""

    def purify(self, x: torch.Tensor, noise: NoiseSource) -> torch.Tensor:
        self._source = noise
        return x + noise.draw("forward", 0, 1, x)[0]


def test_the_noise_is_the_purifiers_own_unless_the_caller_brings_some_and_the_result_is_clamped():
    x = torch.full((2, 1, 4, 4), 0.5)
    own, other = (SeededNoise(seed).draw("forward", 0, 1, x)[0] for seed in (3, 4))
    purifier = Shift(seed=3).under("fixed")
    assert own.abs().max() > 0.5 and torch.equal(purifier(x), (x + own).clamp(0, 1))
    assert torch.equal(purifier(x, SeededNoise(4)), (x + other).clamp(0, 1))
    with torch.random.fork_rng(devices=[]):
        purifier(x, FreshNoise())
    again = purifier._source.draw("forward", 0, 1, x)
    assert torch.equal(again, purifier._source.draw("forward", 0, 1, x)), "the source of one purification"


def test_identity_returns_the_image_that_it_got(tiny_score):
    x = torch.tensor([-1.0, 2.0, torch.nan, 0.5]).reshape(1, 1, 2, 2)
    before = torch.get_rng_state()
    for identity in (Identity(), Identity(tiny_score), Identity(tiny_score, "fresh")):
        assert identity(x) is x and not list(identity.children())
    assert torch.equal(torch.get_rng_state(), before)


class Shrink(Purifier):
    """Toward grey, without need of a score model until it is asked for one."""

    def __init__(self, score_model=None, sigma: float = 0.1) -> None:
        super().__init__(score_model)
        self.sigma = sigma

    def purify(self, x, noise):
        return self.score_model.denoise(x, self.sigma)


def test_a_purifier_that_got_no_score_model_says_how_to_take_one(images):
    with pytest.raises(ValueError, match=r"Shrink has no score model: .* `score_model: ScoreModel`.* super"):
        Shrink()(images)


def test_a_constructor_that_leaves_out_its_base_is_told_so():
    class Left(Purifier):
        def __init__(self, sigma: float = 0.1) -> None:
            self.sigma = sigma

        purify = Shrink.purify

    with pytest.raises(ValueError, match=r"Left.__init__ must begin with super\(\).__init__\(score_model, seed\)"):
        Left()
