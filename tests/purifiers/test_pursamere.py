"""PurSAMERE is Algorithm 1: recorded runs, laws (box, ball, image by image, repeatability, cost) and exact gradient."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lit_pursamere.diffusion import (
    FreshNoise,
    GaussianMixtureScore,
    NoiseLevels,
    NoiseSource,
    ScoreModel,
    SeededNoise,
    expected_reconstruction_error,
)
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.purifiers.pursamere import learning_rates

SIGMAS = [0.5, 0.3, 0.2, 0.1, 0.05]
PROJECTIONS = {"ballclamp": "ball_then_clamp", "exact": "exact"}
RADII = {"cifar10": (0.5, 0.25), "mnist": (0.8, 0.4)}  # rho_pur, rho_sam of the recorded runs


class Table(NoiseSource):
    """Recorded draws (L, m, C, H, W), shared by all images."""

    def __init__(self, xi: Tensor) -> None:
        self.xi, self.asked = xi, []

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        self.asked.append((stream, k))
        return self.xi[k - 1, :count].unsqueeze(1).to(like)


class Spy(ScoreModel):
    """Passes everything on and remembers what it saw."""

    def __init__(self, inner: ScoreModel) -> None:
        super().__init__()
        self.inner, self.seen, self.sigmas = inner, [], []

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        self.seen.append(y.detach())
        self.sigmas.append(float(sigma))
        return self.inner(y, sigma)


def length(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1)


def displacement_error(actual: Tensor, expected: Tensor, x: Tensor) -> float:
    """Relative l2 error over the whole batch, as the recorded tolerances are meant."""
    return ((actual - expected).norm() / (expected - x).norm()).item()


@pytest.fixture(params=["cifar10", "mnist"])
def trace(request, golden_tensors):
    return request.param, golden_tensors(f"pursamere/{request.param}_small_trace")


def build(golden_score, name, data, dtype, sam=True, **options) -> PurSAMERE:
    rho_pur, rho_sam = RADII[name]
    sigmas = data["sigmas"].double().tolist()
    return PurSAMERE(golden_score(name, dtype), rho_pur, rho_sam if sam else 0, sigmas=sigmas, **options)


# --- recorded runs


@pytest.mark.parametrize("sam", [True, False], ids=["sam", "nosam"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_every_recorded_iterate_in_float64(trace, golden_score, projection, sam):
    name, data = trace
    key = f"f64.{projection}.{'sam' if sam else 'nosam'}"
    purifier = build(golden_score, name, data, torch.float64, sam, projection=PROJECTIONS[projection])
    purifier.score_model = spy = Spy(purifier.score_model)
    x, iterates = data["x_adv"][:1].double(), data[f"{key}.x"][:, :1]
    purified, path = purifier.trajectory(x, Table(data["xi"]))
    noise = data["sigmas"].double()[:, None, None, None, None] * data["xi"][:, :1].double()
    shown = [y[:1] - noise[k] for k, y in enumerate(spy.seen[:: 2 if sam else 1])]
    assert torch.allclose(torch.stack([*shown[1:], purified]), iterates, rtol=0, atol=1e-10)
    assert torch.allclose(path.error, data[f"{key}.R"][:, :1], rtol=1e-12)
    assert torch.allclose(path.distance, torch.stack([length(x_k - x) for x_k in iterates]), rtol=0, atol=1e-10)
    assert path.lrs == pytest.approx([0.1, 0.0802, 0.0604, 0.0406, 0.0208, 0.001])
    assert path.sigmas == purifier.sigmas
    if sam:
        ascent = spy.seen[1][:1] - noise[0]
        reached = data["f64.k1.x_max"][:1]
        assert torch.allclose(ascent, reached, rtol=0, atol=1e-10)
        assert torch.allclose(path.ascent_norm[0], length(reached - x), rtol=1e-10)
    else:
        assert path.ascent_norm.max() == 0


@pytest.mark.parametrize("sam", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["sam", "nosam"])
@pytest.mark.parametrize("projection", PROJECTIONS)
def test_recorded_run_in_float32(trace, golden_score, projection, sam):
    name, data = trace
    key = f"f32.{projection}.{'sam' if sam else 'nosam'}"
    purifier = build(golden_score, name, data, torch.float32, sam, projection=PROJECTIONS[projection])
    purified, path = purifier.trajectory(data["x_adv"], Table(data["xi"]))
    recorded = data[f"{key}.x"][-1]
    assert torch.allclose(purified, recorded, rtol=0, atol=1e-2)
    assert displacement_error(purified, recorded, data["x_adv"]) < 2e-2
    assert torch.allclose(path.error, data[f"{key}.R"], rtol=2e-5)


def test_recorded_gradients_of_the_first_level(trace, golden_score):
    name, data = trace
    model, xi, sigma = golden_score(name, torch.float64), data["xi"][0].double().unsqueeze(1), data["sigmas"][0].item()
    for point, gradient, error, norm in (
        (data["x_adv"][:2].double(), "grad_x0", "R", "gnorm"),
        (data["f64.k1.x_max"][:2], "grad_x_max", "R_max", "gmaxnorm"),
    ):
        point.requires_grad_()
        value = expected_reconstruction_error(model, point, sigma, xi)
        (g,) = torch.autograd.grad(value.sum(), point)
        assert torch.allclose(g, data[f"f64.k1.{gradient}"][:2], rtol=0, atol=1e-12)
        assert torch.allclose(value, data[f"f64.exact.sam.{error}"][0, :2], rtol=1e-12)
        assert torch.allclose(length(g), data[f"f64.exact.sam.{norm}"][0, :2], rtol=1e-10)


def test_recorded_run_with_the_rates_as_printed(trace, golden_score):
    name, data = trace
    purifier = build(golden_score, name, data, torch.float64, projection="exact", lr_schedule="as_printed")
    purified = purifier(data["x_adv"][:1].double(), Table(data["xi"]))
    assert torch.allclose(purified, data["f64.exact.sam.schedule_printed.x_last"][:1], rtol=0, atol=1e-10)


# --- learning rates


def test_learning_rates_of_both_readings():
    linear = [0.1, 0.0802, 0.0604, 0.0406, 0.0208, 0.001]
    printed = [0.1, 0.001, 0.0208, 0.0406, 0.0604, 0.0802]
    assert learning_rates(6, 0.1, 0.001, "linear") == pytest.approx(linear, rel=1e-12)
    assert learning_rates(6, 0.1, 0.001, "as_printed") == pytest.approx(printed, rel=1e-12)
    assert learning_rates(1, 0.1, 0.001, "linear") == learning_rates(1, 0.1, 0.001, "as_printed") == (0.1,)


def test_default_rates_fall_strictly_from_their_maximum_to_their_minimum(mixture):
    lrs = PurSAMERE(mixture).lrs
    assert len(lrs) == 232 and lrs[0] == 0.1
    assert math.isclose(lrs[-1], 0.001, rel_tol=1e-9)
    assert all(a > b for a, b in itertools.pairwise(lrs))


# --- laws


@pytest.mark.parametrize("projection", PROJECTIONS.values())
@pytest.mark.parametrize("rho_sam", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_is_in_the_box_and_in_the_ball(mixture, images, projection, rho_sam, dtype):
    x = torch.cat([images, torch.zeros_like(images[:1]), torch.ones_like(images[:1]), images.round()]).to(dtype)
    for rho_pur in (0.05, 0.3, 5.0):
        purifier = PurSAMERE(mixture.to(dtype), rho_pur, rho_sam, sigmas=SIGMAS, projection=projection)
        purified, path = purifier.trajectory(x)
        assert purified.min() >= 0 and purified.max() <= 1
        assert purified.dtype == dtype and purified.shape == x.shape
        assert path.distance.max() <= rho_pur + 1e-5
        assert torch.allclose(path.distance[-1], length(purified - x))
        assert length(purified - x).min() > 0.01


@pytest.mark.parametrize("projection", PROJECTIONS.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ball_of_radius_zero_gives_the_identity(mixture, images, projection, dtype):
    purifier = PurSAMERE(mixture.to(dtype), rho_pur=0, sigmas=SIGMAS, projection=projection)
    assert torch.equal(purifier(images.to(dtype)), images.to(dtype))


def test_one_image_equals_the_same_image_in_a_batch(mixture, images):
    purifier = PurSAMERE(mixture, rho_pur=0.5, rho_sam=0.2, sigmas=SIGMAS)
    together = purifier(images)
    alone = torch.cat([purifier(image[None]) for image in images])
    assert torch.allclose(together, alone, rtol=0, atol=1e-10)


def test_a_repeated_call_is_bit_equal(mixture, images):
    purifier = PurSAMERE(mixture, sigmas=SIGMAS)
    assert torch.equal(purifier(images), purifier(images))
    assert torch.equal(purifier(images), purifier.trajectory(images)[0])


@pytest.mark.parametrize("rho_sam", [0.0, 0.2])
def test_an_independent_loop_with_torchs_adam_gives_the_same(mixture, images, rho_sam):
    x = images.clone().requires_grad_()
    adam = torch.optim.Adam([x], betas=(0.9, 0.999), eps=1e-8)
    lrs = [0.1 - 0.099 * k / 4 for k in range(5)]
    for k, (sigma, lr) in enumerate(zip(SIGMAS, lrs, strict=True), start=1):
        xi = torch.randn((3, 2, 2, 2), generator=torch.Generator().manual_seed(k)).double()

        def gradient(point, sigma=sigma, xi=xi):
            point = point.detach().requires_grad_()
            error = sum((e + sigma * mixture.score(point + sigma * e, sigma)).square().sum() for e in xi) / 3
            return torch.autograd.grad(error, point)[0]

        g = gradient(x)
        if rho_sam:
            g = gradient((x + rho_sam * g / length(g)[:, None, None, None]).clamp(0, 1))
        adam.param_groups[0]["lr"], x.grad = lr, g
        adam.step()
        with torch.no_grad():
            delta = x - images
            x.copy_((images + delta * (0.4 / length(delta)).clamp_max(1)[:, None, None, None]).clamp(0, 1))
    purifier = PurSAMERE(mixture, rho_pur=0.4, rho_sam=rho_sam, draws=3, sigmas=SIGMAS)
    assert torch.allclose(purifier(images), x.detach(), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("rho_sam", "gradients"), [(0.0, 1), (0.2, 2)])
def test_number_of_network_evaluations(mixture, images, rho_sam, gradients):
    spy = Spy(mixture)
    PurSAMERE(spy, rho_sam=rho_sam, draws=3, sigmas=SIGMAS)(images)
    assert sum(len(y) for y in spy.seen) == gradients * 3 * len(SIGMAS) * len(images)
    assert spy.sigmas == [sigma for sigma in SIGMAS for _ in range(gradients)]


def test_both_gradients_of_a_level_use_the_same_noise(mixture, images):
    spy, table = Spy(mixture), Table(torch.randn((5, 4, 2, 2, 2), generator=torch.Generator().manual_seed(2)))
    PurSAMERE(spy, rho_sam=0.2, sigmas=SIGMAS)(images, table)
    assert table.asked == [("level", k) for k in range(1, 6)]
    for k, sigma in enumerate(SIGMAS):
        noise = sigma * table.xi[k].double().unsqueeze(1)
        for y in spy.seen[2 * k : 2 * k + 2]:  # without its noise, every draw must show the same image
            points = y.unflatten(0, (4, len(images))) - noise
            assert torch.allclose(points, points[:1].expand_as(points), rtol=0, atol=1e-12)
        descent, ascent = (y.unflatten(0, (4, -1))[0] - noise[0] for y in spy.seen[2 * k : 2 * k + 2])
        assert length(ascent - descent).min() > 0.01
        assert ascent.min() >= -1e-12 and ascent.max() <= 1 + 1e-12


@pytest.mark.parametrize("rho_sam", [0.0, 0.1])
def test_an_image_between_two_modes_moves_to_the_nearer_one(rho_sam):
    modes = torch.stack([torch.full((1, 4, 4), 0.25), torch.full((1, 4, 4), 0.75)])
    model = GaussianMixtureScore(modes, std=0.05).double()
    x = torch.cat([torch.full((1, 1, 4, 4), value, dtype=torch.float64) for value in (0.42, 0.58)])
    # Small steps and many draws: Adam's first step, a pure sign, must not throw the image across the middle.
    purified = PurSAMERE(model, 3.0, rho_sam, 16, sigmas=NoiseLevels(first=0.25, stride=2), lr_max=0.02)(x)
    before, after = length(x - modes.double()), length(purified - modes.double())
    assert (after < before / 3).all()


def test_stochastic_mode_differs_between_calls_and_images(mixture, images):
    purifier = PurSAMERE(mixture, sigmas=SIGMAS).under("fresh")
    assert isinstance(purifier.noise, FreshNoise)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        twins = torch.cat([images[:1], images[:1]])
        first, second = purifier(twins), purifier(twins)
    assert (first - second).abs().max() > 1e-4
    assert (first[0] - first[1]).abs().max() > 1e-4


def test_noise_given_to_a_call_overrides_the_purifiers_own(mixture, images):
    seeded = PurSAMERE(mixture, sigmas=SIGMAS, seed=4)
    stochastic = seeded.under("fresh")
    expected = seeded(images)
    assert torch.equal(stochastic(images, SeededNoise(4)), expected)
    assert torch.equal(PurSAMERE(mixture, sigmas=SIGMAS)(images, SeededNoise(4)), expected)
    assert not torch.allclose(seeded(images, SeededNoise(9)), expected, atol=1e-4)


def test_the_score_model_is_frozen_and_stays_in_evaluation_mode(tiny_score):
    purifier = PurSAMERE(tiny_score, sigmas=SIGMAS).train()
    assert not any(p.requires_grad for p in purifier.parameters())
    assert not any(module.training for module in purifier.modules())


# --- less work, and less noise


class Tilted(ScoreModel):
    """Estimates a constant plus half of the noisy image, so that R's gradient points along the image everywhere."""

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.3 + 0.5 * y


def test_a_reused_ascent_saves_half_of_the_evaluations(mixture, images):
    spy = Spy(mixture)
    purified, path = PurSAMERE(spy, rho_sam=0.2, draws=3, sigmas=SIGMAS, ascent="reused").trajectory(images)
    assert sum(len(y) for y in spy.seen) == 3 * (len(SIGMAS) + 1) * len(images)
    assert spy.sigmas == [SIGMAS[0], *SIGMAS]
    assert path.ascent_norm.min() > 0.01 and purified.isfinite().all()


def test_a_reused_ascent_is_the_gradient_that_the_level_before_descended_by(mixture, images):
    spy, table = Spy(mixture), Table(torch.randn((5, 4, 2, 2, 2), generator=torch.Generator().manual_seed(2)))
    purifier = PurSAMERE(spy, rho_sam=0.2, sigmas=SIGMAS, ascent="reused", lr_max=1e-9, lr_min=1e-10)
    purifier(images, table)  # hardly moves
    noise = [sigma * table.xi[k].double().unsqueeze(1) for k, sigma in enumerate(SIGMAS)]
    shown = [y.unflatten(0, (4, -1)) for y in spy.seen]
    reached = (shown[1] - noise[0])[0].requires_grad_()
    xi = table.xi[0].double().unsqueeze(1)
    error = expected_reconstruction_error(mixture, reached, SIGMAS[0], xi)
    (g,) = torch.autograd.grad(error.sum(), reached)
    expected = (images + 0.2 * g / length(g)[:, None, None, None]).clamp(0, 1)
    assert torch.allclose((shown[2] - noise[1])[0], expected, rtol=0, atol=1e-6)


def test_a_reused_ascent_equals_a_fresh_one_where_the_gradient_has_one_direction(images):
    x = (0.4 + 0.2 * images[:, :1, :1, :1]).expand(-1, 1, 1, 1).double()  # one pixel: up or down
    fresh, reused = (
        PurSAMERE(Tilted(), 3.0, 0.05, sigmas=SIGMAS, lr_max=0.01, antithetic=True, ascent=ascent)(x)
        for ascent in ("fresh", "reused")
    )
    assert torch.allclose(fresh, reused, rtol=0, atol=1e-9) and (fresh - x).abs().min() > 1e-3


def test_a_reused_ascent_changes_nothing_without_sam(mixture, images):
    fresh, reused = (PurSAMERE(mixture, 0.5, 0, sigmas=SIGMAS, ascent=ascent) for ascent in ("fresh", "reused"))
    assert torch.equal(fresh(images), reused(images))


def test_antithetic_draws_cancel_what_is_odd_in_the_noise(images):
    class Constant(ScoreModel):
        """R = |xi - c|^2 = |xi|^2 - 2 <xi, c> + |c|^2 for every draw, of which the middle term is odd."""

        def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
            return 0 * y + 0.7

    table = Table(torch.randn((5, 2, 2, 2, 2), generator=torch.Generator().manual_seed(2)))
    purifier = PurSAMERE(Constant(), rho_sam=0, draws=4, sigmas=SIGMAS, antithetic=True)
    _, path = purifier.trajectory(images, table)
    even = table.xi.double().square().flatten(2).sum(2).mean(1) + 8 * 0.7**2
    assert torch.allclose(path.error, even[:, None].expand_as(path.error), rtol=1e-12)


def test_antithetic_draws_cost_the_same_and_are_pairs(mixture, images):
    spy = Spy(mixture)
    PurSAMERE(spy, rho_sam=0, draws=4, sigmas=SIGMAS, antithetic=True)(images)
    assert [len(y) for y in spy.seen] == [4 * len(images)] * len(SIGMAS)
    first = spy.seen[0].unflatten(0, (4, -1))
    assert torch.allclose(first[:2] + first[2:], 2 * images.expand_as(first[:2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{"ascent": "reused"}, {"antithetic": True}], ids=["reused", "antithetic"])
def test_the_exact_gradient_holds_with_less_work(mixture, images, options):
    purifier = PurSAMERE(mixture, 0.3, 0.15, draws=2, sigmas=[0.4, 0.25, 0.15], **options)
    assert torch.autograd.gradcheck(purifier, (images[:1].clone().requires_grad_(),), eps=1e-6, atol=1e-6, rtol=1e-5)


# --- gradient through the purifier


@pytest.mark.parametrize("projection", PROJECTIONS.values())
@pytest.mark.parametrize("rho_sam", [0.0, 0.15])
@pytest.mark.parametrize("rho_pur", [0.15, 3.0])
def test_the_exact_gradient_agrees_with_finite_differences(mixture, images, projection, rho_sam, rho_pur):
    purifier = PurSAMERE(mixture, rho_pur, rho_sam, draws=2, sigmas=[0.4, 0.25, 0.15], projection=projection)
    x = images[:1].clone().requires_grad_()
    distance = purifier.trajectory(x)[1].distance
    active = distance.max() > rho_pur - 1e-9
    assert active == (rho_pur < 1)
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("projection", PROJECTIONS.values())
def test_the_exact_gradient_holds_where_the_box_cuts(mixture, images, projection):
    x = images[:1].clone()
    x[:, 0, 0, 0], x[:, 1, 1, 1] = 0.01, 0.99
    far = torch.full_like(x, 0.0)
    far[:, 0, 0, 0], far[:, 1, 1, 1] = -0.4, 0.4
    model = GaussianMixtureScore((x + far).float(), std=0.2).double()  # its modes lie outside the box
    purifier = PurSAMERE(model, 0.2, 0.1, draws=2, sigmas=[0.3, 0.2, 0.1], projection=projection)
    purified = purifier(x.requires_grad_())
    assert ((purified == 0) | (purified == 1)).any() and ((purified > 0) & (purified < 1)).any()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_the_gradient_is_finite_where_the_error_is_flat(images):
    class Half(ScoreModel):
        """Sees the left column only, so R is flat in the right one."""

        def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
            return y * torch.tensor([1.0, 0.0], dtype=y.dtype)

    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(PurSAMERE(Half(), sigmas=SIGMAS)(x).sum(), x)
    assert gradient.isfinite().all()
    assert torch.allclose(gradient[..., 1], torch.ones_like(gradient[..., 1]))


@pytest.mark.parametrize("projection", PROJECTIONS.values())
def test_values_are_the_same_with_and_without_gradients(mixture, images, projection):
    purifier = PurSAMERE(mixture, 0.3, 0.2, sigmas=SIGMAS, projection=projection)
    plain, followed = purifier(images), purifier(images.clone().requires_grad_())
    with torch.no_grad():
        silent = purifier(images.clone().requires_grad_())
    assert torch.equal(plain, followed) and torch.equal(plain, silent)
    assert followed.requires_grad and not plain.requires_grad and not silent.requires_grad


def test_the_gradient_through_a_network_agrees_with_finite_differences(tiny_score):
    purifier = PurSAMERE(tiny_score.double(), 0.4, 0.2, draws=1, sigmas=[0.3, 0.1])
    generator = torch.Generator().manual_seed(3)
    x = 0.2 + 0.6 * torch.rand((1, 1, 8, 8), generator=generator, dtype=torch.float64)
    direction, weight = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((purifier(x) * weight).sum(), x)
    with torch.no_grad():
        step = 1e-6 * direction
        difference = ((purifier(x + step) - purifier(x - step)) * weight).sum() / 2e-6
    assert torch.allclose((gradient * direction).sum(), difference, rtol=1e-4)


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"rho_pur": -1.0}, "rho_pur=-1.0"),
        ({"rho_sam": -0.5}, "rho_sam=-0.5"),
        ({"rho_pur": math.nan}, "nan"),
        ({"rho_sam": math.nan}, "nan"),
        ({"draws": 0}, "draws=0"),
        ({"sigmas": []}, r"got \[\]"),
        ({"sigmas": [0.1, 0.2]}, r"\[0.1, 0.2\]"),
        ({"sigmas": [0.1, 0.0]}, r"\[0.1, 0.0\]"),
        ({"sigmas": [0.1, 0.1]}, r"\[0.1, 0.1\]"),
        ({"sigmas": [math.nan]}, "nan"),
        ({"lr_min": 0.2}, "0.2 and 0.1"),
        ({"lr_min": 0.0}, "0.0 and 0.1"),
        ({"seed": -3}, "-3"),
        ({"projection": "cube"}, "cube"),
        ({"lr_schedule": "cosine"}, "cosine"),
        ({"ascent": "stale"}, "stale"),
        ({"antithetic": True, "draws": 3}, "draws=3"),
    ],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        PurSAMERE(mixture, **arguments)
