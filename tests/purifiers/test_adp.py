"""ADP repeats the recorded runs of the authors' code, stops image by image, and contracts a Gaussian as it should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_pursamere.diffusion import GaussianMixtureScore, NCSNv2Score, ScoreModel, SeededNoise
from lit_pursamere.purifiers import ADP


class Divided(ScoreModel):
    """NCSNv2 whose output is divided by a number, as the authors' network is by one of its levels."""

    def __init__(self, inner: ScoreModel, by: float) -> None:
        super().__init__()
        self.inner, self.by = inner, by

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        return self.inner(y, sigma) / self.by


@pytest.fixture
def trace(golden_tensors) -> dict[str, Tensor]:
    return golden_tensors("adp/cifar10_small_trace")


@pytest.fixture
def trained(trace) -> NCSNv2Score:
    model = NCSNv2Score(ngf=8, channels=3, image_size=32)
    weights = {k.removeprefix("weights."): v for k, v in trace.items() if k.startswith("weights.")}
    weights.pop("sigmas")
    model.network.load_state_dict(weights)
    return model


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("run", ["unit", "label1"])
def test_recorded_iterates_in_float64(trace, trained, recorded_noise, run, steps):
    model = trained.double()
    if run == "label1":
        model = Divided(model, trace["weights.sigmas"][1].double().item())
    purified = ADP(model, steps=steps, rescale=True)(trace["x"].double(), recorded_noise(trace["noise"][None]))
    assert torch.allclose(purified, trace[f"f64.{run}.a0.001.images"][steps], rtol=0, atol=1e-10)


def test_recorded_run_in_float32(trace, trained, recorded_noise):
    purified = ADP(trained, rescale=True)(trace["x"], recorded_noise(trace["noise"][None]))
    assert torch.allclose(purified, trace["f32.unit.a0.001.images"][10], rtol=0, atol=1e-4)


def test_recorded_run_in_which_images_stop_at_different_steps(trace, trained, recorded_noise, watched):
    """A stopped image stays where it is; in the authors' code the map back to pixels still moves it."""
    images, sizes = trace["f32.unit.amid.images"], trace["f32.unit.amid.step_sizes"]
    stopped = sizes[-1] == 0
    assert stopped.tolist() == [True, False, False, False]
    purifier = ADP(trained, steps=len(sizes), tau=0.003911771393930164, rescale=True)
    purified = purifier(trace["x"], recorded_noise(trace["noise"][None]))
    assert torch.allclose(purified[~stopped], images[-1][~stopped], rtol=0, atol=1e-4)
    assert torch.allclose(purified[stopped], images[-2][stopped], rtol=0, atol=1e-4)


def test_recorded_run_in_which_every_image_stops_at_once(trace, golden_score, recorded_noise, watched):
    model = watched(golden_score("cifar10"))
    purified = ADP(model, rescale=True)(trace["x"], recorded_noise(trace["noise"][None]))
    assert torch.allclose(purified, trace["f32.unit_random.a0.001.images"][0], rtol=0, atol=1e-6)
    assert len(model.seen) == 2


def test_number_of_network_evaluations_and_gaussians(mixture, images, watched, watched_noise):
    model = watched(mixture)
    ADP(model, tau=0)(images, watched_noise)
    assert sum(len(y) for y in model.seen) == 20 * len(images)
    assert watched_noise.drawn == [("forward", 0)]


def test_a_gaussian_is_approached_by_the_fraction_lambda_at_every_step():
    """g = sigma (mu - x) / v with v = tau^2 + sigma^2, so 1 - q = delta sigma / v and alpha g = lam (mu - x)."""
    model = GaussianMixtureScore(torch.full((1, 1, 3, 3), 0.4, dtype=torch.float64), std=0.1)
    x = torch.linspace(0.3, 0.5, 9, dtype=torch.float64).reshape(1, 1, 3, 3)
    start = x + 0.05 * SeededNoise(1).draw("forward", 0, 1, x)[0]
    purified = ADP(model, sigma=0.05, lam=0.1, steps=7, seed=1).under("fixed")(x)
    assert torch.allclose(purified, 0.4 + 0.9**7 * (start - 0.4), rtol=0, atol=1e-12)


def test_an_image_that_stops_is_frozen_while_others_move(mixture, images):
    path = torch.stack(
        [ADP(mixture, sigma=0.1, tau=0.0165, steps=steps).under("fixed")(images) for steps in range(1, 9)]
    )
    moves = path.diff(dim=0).abs().flatten(2).amax(2) > 0
    resting = ~moves
    assert (resting[1:] >= resting[:-1]).all()  # once it rests, it rests
    assert 0 < resting[0].sum() < len(images) and resting[0].sum() < resting[-1].sum()


def test_the_exact_gradient_agrees_with_finite_differences_and_without_recomputation(mixture, images):
    purifier = ADP(mixture, sigma=0.1, steps=4, tau=0, seed=2).under("fixed")
    x = images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)
    (expected,) = torch.autograd.grad(purifier(x).square().sum(), x)
    purifier.recompute = False
    (kept,) = torch.autograd.grad(purifier(x).square().sum(), x)
    assert torch.allclose(kept, expected, rtol=0, atol=1e-12) and expected.norm() > 0


def test_the_gradient_is_finite_where_the_score_is_flat(images):
    class Flat(ScoreModel):
        def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
            return 0 * y

    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ADP(Flat(), sigma=0.01).under("fixed")(x).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "value"),
    [({"sigma": 0.0}, "0.0"), ({"lam": -1.0}, "-1.0"), ({"steps": 0}, "got 0"), ({"tau": -0.5}, "-0.5")],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        ADP(mixture, **arguments)
