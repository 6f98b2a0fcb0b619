"""A threat model projects onto the nearest allowed point, leaves allowed points alone, and steps with unit length."""

from __future__ import annotations

import math

import pytest
import torch

from lit_pursamere.threat import Pixels, ThreatModel, project_l2_ball_and_box

THREATS = [ThreatModel("linf", 8 / 255), ThreatModel("l2", 0.5), ThreatModel("l1", 2.0)]
DTYPES = [torch.float32, torch.float64]
threats = pytest.mark.parametrize("threat", THREATS, ids=str)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def pairs(dtype=torch.float64, shape=(3, 4, 4), seed=0):
    """Centers in the box, some of them on its faces, and points from near to far, some of them outside the box."""
    generator = torch.Generator().manual_seed(seed)
    x = (1.4 * torch.rand((12, *shape), generator=generator, dtype=torch.float64) - 0.2).clamp(0, 1)
    scale = torch.logspace(-3, 0.5, 12, dtype=torch.float64)[:, None, None, None]
    return (x + scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)).to(dtype), x.to(dtype)


def l2(delta):
    return delta.flatten(1).norm(dim=1)


# --- projections


@threats
@dtypes
def test_projections_are_feasible_and_idempotent(threat, dtype):
    x_adv, x = pairs(dtype)
    slack = 1e-6 if dtype == torch.float32 else 1e-12
    once = threat.project(x_adv, x)
    assert once.min() >= 0 and once.max() <= 1
    assert (threat.distance(once, x) <= threat.eps * (1 + slack) + slack).all()
    assert torch.allclose(threat.project(once, x), once, rtol=0, atol=slack)
    assert not torch.equal(once, x_adv)


@threats
@dtypes
def test_feasible_points_come_back_bit_for_bit(threat, dtype):
    _, x = pairs(dtype)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    length = threat.distance(x + direction, x)[:, None, None, None]
    inside = (x + 0.9 * threat.eps * direction / length).clamp(0, 1)
    assert torch.equal(threat.project(inside, x), inside)
    assert torch.equal(threat.project(x, x), x)
    far, everything = (
        x.roll(1, 0),
        ThreatModel(threat.norm, 1.0 if threat.norm == "linf" else 100.0),
    )  # here x + (far - x) would round
    assert not torch.equal(x + (far - x), far)
    assert torch.equal(everything.project(far, x), far)


@threats
def test_projections_treat_every_image_on_its_own(threat):
    x_adv, x = pairs()
    alone = torch.cat([threat.project(x_adv[i : i + 1], x[i : i + 1]) for i in range(len(x))])
    assert torch.equal(threat.project(x_adv, x), alone)


def test_linf_projection_is_a_clamp():
    x_adv, x = pairs()
    expected = (x + (x_adv - x).clamp(-0.1, 0.1)).clamp(0, 1)
    assert torch.allclose(ThreatModel("linf", 0.1).project(x_adv, x), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("eps", [0.3, 2.0, 12.0])
def test_l1_projection_agrees_with_a_bisection_on_the_threshold(eps):
    x_adv, x = pairs()
    low, high = torch.zeros(12, 1), (x_adv - x).flatten(1).abs().amax(1, keepdim=True)
    delta = (x_adv - x).flatten(1)
    for _ in range(100):
        middle = (low + high) / 2
        outside = (delta.abs() - middle).clamp_min(0).sum(1, keepdim=True) > eps
        low, high = torch.where(outside, middle, low), torch.where(outside, high, middle)
    shrunk = delta.sign() * (delta.abs() - high).clamp_min(0)
    expected = (x + shrunk.reshape(x.shape)).clamp(0, 1)
    outside = ThreatModel("l1", eps).distance(x_adv, x) > eps
    assert outside.any()
    assert torch.allclose(ThreatModel("l1", eps).project(x_adv, x)[outside], expected[outside], rtol=0, atol=1e-12)


def test_l1_projection_is_accurate_at_the_size_of_cifar10():
    x_adv, x = pairs(torch.float32, (3, 32, 32))
    single = ThreatModel("l1", 12.0).project(x_adv, x)
    double = ThreatModel("l1", 12.0).project(x_adv.double(), x.double())
    assert torch.allclose(single.double(), double, rtol=0, atol=1e-5)
    assert (ThreatModel("l1", 12.0).distance(single, x) <= 12 + 1e-4).all()


@threats
@dtypes
def test_a_budget_of_zero_is_the_identity(threat, dtype):
    x_adv, x = pairs(dtype)
    nothing = ThreatModel(threat.norm, 0.0)
    assert torch.equal(nothing.project(x_adv, x), x)
    assert torch.equal(nothing.random_start(x, torch.Generator().manual_seed(0)), x)


# --- the exact projection onto ball and box


@pytest.mark.parametrize("radius", [0.05, 0.7, 3.0])
def test_exact_projection_is_feasible_idempotent_and_at_least_as_near(radius):
    p, c = pairs()
    exact, simple = project_l2_ball_and_box(p, c, radius), ThreatModel("l2", radius).project(p, c)
    assert exact.min() >= 0 and exact.max() <= 1 and l2(exact - c).max() <= radius * (1 + 1e-12)
    assert (l2(exact - p) <= l2(simple - p) + 1e-12).all()
    assert torch.allclose(project_l2_ball_and_box(exact, c, radius), exact, rtol=0, atol=1e-9)
    assert torch.equal(project_l2_ball_and_box(c, c, radius), c)


def test_exact_projection_is_strictly_nearer_where_the_box_cuts():
    p, c = pairs()
    nearer = l2(ThreatModel("l2", 0.7).project(p, c) - p) - l2(project_l2_ball_and_box(p, c, 0.7) - p)
    assert nearer.max() > 1e-3


@pytest.mark.parametrize("radius", [0.05, 0.7, 3.0])
def test_exact_projection_is_optimal(radius):
    """<p - z, y - z> <= 0 for every feasible y is what makes z the nearest feasible point."""
    p, c = pairs()
    z = project_l2_ball_and_box(p, c, radius)
    generator = torch.Generator().manual_seed(2)
    rivals = [c, ThreatModel("l2", radius).project(p, c)]
    for scale in (1e-3, 1e-2, 0.1, 1.0):
        noise = scale * torch.randn((50, *z.shape), generator=generator, dtype=z.dtype)
        rivals += [ThreatModel("l2", radius).project(z + n, c) for n in noise]
    for y in rivals:
        assert ((p - z) * (y - z)).flatten(1).sum(1).max() < 1e-9


def test_exact_projection_agrees_with_alternating_projections():
    """Dykstra's algorithm converges to the projection onto an intersection, slowly, from the two simple ones."""
    p, c = pairs()
    z, ball_rest, box_rest = p, torch.zeros_like(p), torch.zeros_like(p)
    for _ in range(3000):
        delta = z + ball_rest - c
        y = c + delta * (0.7 / l2(delta)).clamp_max(1)[:, None, None, None]
        ball_rest = z + ball_rest - y
        z = (y + box_rest).clamp(0, 1)
        box_rest = y + box_rest - z
    assert torch.allclose(project_l2_ball_and_box(p, c, 0.7), z, rtol=0, atol=1e-5)


@dtypes
def test_exact_projection_with_radius_zero_is_the_center(dtype):
    p, c = pairs(dtype)
    assert torch.equal(project_l2_ball_and_box(p, c, 0.0), c)


def test_exact_projection_leaves_feasible_points_bit_for_bit():
    p, c = pairs(torch.float32)
    z = (c + 0.01 * (p - c)).clamp(0, 1)
    inside = l2(z - c) < 0.5
    assert inside.any()
    assert torch.equal(project_l2_ball_and_box(z, c, 0.5)[inside], z[inside])


def test_exact_projection_has_the_derivative_of_finite_differences():
    p, c = pairs(shape=(1, 2, 3))
    p, c = p[6:].requires_grad_(), (0.1 + 0.8 * c[6:]).requires_grad_()
    z = project_l2_ball_and_box(p, c, 0.4)
    assert ((z > 0) & (z < 1)).any() and (l2(z - c) > 0.4 - 1e-9).any()
    assert torch.autograd.gradcheck(lambda a, b: project_l2_ball_and_box(a, b, 0.4), (p, c), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_recorded_projections(golden_tensors, name):
    data = golden_tensors(f"pursamere/{name}_small_trace")
    p, c, radius = data["proj.p"], data["proj.c"], data["proj.radius"].item()
    assert torch.allclose(ThreatModel("l2", radius).project(p, c), data["proj.ballclamp"], rtol=0, atol=1e-12)
    assert torch.allclose(project_l2_ball_and_box(p, c, radius), data["proj.exact"], rtol=0, atol=1e-10)
    assert not torch.allclose(data["proj.exact"], data["proj.ballclamp"], atol=1e-3)


# --- steps


def gradients(dtype=torch.float32, shape=(3, 32, 32)):
    return torch.randn((4, *shape), generator=torch.Generator().manual_seed(3)).to(dtype)


def test_l1_steps_move_the_154_largest_of_3072_coordinates_by_the_same_amount():
    g = gradients()
    step = ThreatModel("l1", 12).ascent_direction(g).flatten(1)
    assert (step != 0).sum(1).tolist() == [154] * 4
    assert torch.allclose(step.abs().sum(1), torch.ones(4))
    assert torch.allclose(step[step != 0].abs(), torch.tensor(1 / 154))
    moved, size = step != 0, g.flatten(1).abs()
    assert torch.equal(step.sign()[moved], g.flatten(1).sign()[moved])
    for image in range(4):
        assert size[image][moved[image]].min() >= size[image][~moved[image]].max()


def test_l1_steps_move_at_least_one_coordinate():
    step = ThreatModel("l1", 1).ascent_direction(gradients(shape=(1, 2, 2)))
    assert (step != 0).flatten(1).sum(1).tolist() == [1] * 4


@dtypes
@pytest.mark.parametrize("scale", [1e-25, 1e-6, 1.0, 1e20])
def test_l2_steps_have_length_one_along_the_gradient(dtype, scale):
    g = gradients(dtype)
    step = ThreatModel("l2", 1).ascent_direction(scale * g)
    assert torch.allclose(l2(step), torch.ones(4, dtype=dtype))
    assert torch.allclose(step, g / l2(g)[:, None, None, None], rtol=1e-5, atol=1e-7)


def test_linf_steps_are_signs():
    assert torch.equal(ThreatModel("linf", 1).ascent_direction(gradients()), gradients().sign())


@threats
def test_a_zero_gradient_gives_a_zero_step_for_its_image_only(threat):
    g = gradients()
    g[1] = 0
    step = threat.ascent_direction(g)
    assert torch.equal(step[1], torch.zeros_like(g[1]))
    assert torch.equal(step[0], threat.ascent_direction(g[:1])[0])
    assert (step[[0, 2, 3]] * g[[0, 2, 3]]).flatten(1).sum(1).min() > 0


# --- random starts


@threats
@dtypes
def test_random_starts_are_feasible_seeded_and_the_same_in_every_batch(threat, dtype):
    _, x = pairs(dtype)

    def start(images, seed):
        return threat.random_start(images, torch.Generator().manual_seed(seed))

    first = start(x, 0)
    assert first.dtype == dtype and first.min() >= 0 and first.max() <= 1
    assert (threat.distance(first, x) <= threat.eps * (1 + 1e-5)).all()
    assert threat.distance(first, x).min() > 0
    assert torch.equal(start(x, 0), first)
    assert not torch.equal(start(x, 1), first)
    assert torch.equal(torch.cat([start(image[None], 0) for image in x]), first)


@threats
def test_random_starts_with_a_generator_leave_the_global_one_alone(threat):
    before = torch.get_rng_state()
    threat.random_start(pairs()[1], torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@threats
def test_random_starts_fill_the_ball(threat):
    x, generator = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64), torch.Generator().manual_seed(0)
    reach = torch.stack([threat.distance(threat.random_start(x, generator), x) for _ in range(200)]) / threat.eps
    middle = {"linf": 0.96, "l2": 0.5 ** (1 / 16), "l1": 0.5}[threat.norm]  # median radius over eps, 16 pixels
    assert abs(reach.median().item() - middle) < (0.1 if threat.norm == "l1" else 0.02)
    assert reach.max() > 0.95 and reach.max() <= 1 + 1e-6


# --- values


def test_distances_are_those_of_the_norm():
    a = torch.tensor([3.0, -4.0, 0.0, 0.0]).reshape(1, 1, 2, 2).repeat(2, 1, 1, 1)
    a[1] = 0
    for norm, expected in (("linf", 4.0), ("l2", 5.0), ("l1", 7.0)):
        assert ThreatModel(norm, 1).distance(a, torch.zeros_like(a)).tolist() == [expected, 0.0]


def test_threat_models_are_values():
    assert ThreatModel("l2", 0.5) == ThreatModel("l2", 0.5) != ThreatModel("l2", 1.0)
    assert str(ThreatModel("linf", 8 / 255)) == "linf 8/255"
    assert str(ThreatModel("linf", 0.3)) == "linf 0.3"
    assert str(ThreatModel("l2", 0.5)) == "l2 0.5"
    with pytest.raises(AttributeError):
        ThreatModel("l2", 0.5).eps = 1.0


@pytest.mark.parametrize(
    ("norm", "eps", "value"),
    [
        ("l2", -0.1, "-0.1"),
        ("l1", math.nan, "nan"),
        ("linf", math.inf, "inf"),
        ("l3", 0.1, "l3"),
        ("Linf", 0.1, "Linf"),
    ],
)
def test_bad_arguments_are_named(norm, eps, value):
    with pytest.raises(ValueError, match=value):
        ThreatModel(norm, eps)


def test_eight_is_not_taken_for_eight_of_255():
    with pytest.raises(ValueError, match=r"^eps 8 in linf is more than \[0, 1\], .*; was 8/255 meant\?$"):
        ThreatModel("linf", Pixels("8"))
    with pytest.raises(ValueError, match=r"^eps 300 in linf is more than \[0, 1\], the range of a pixel$"):
        ThreatModel("linf", 300)
    assert ThreatModel("linf", 1).eps == 1 and ThreatModel("l2", 8).eps == 8, "other norms sum over pixels"
