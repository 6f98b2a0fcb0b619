"""GDMP: unguided it is DDPM's stepping, guides act on every image alone with the strength of the authors' code."""

from __future__ import annotations

import math

import pytest
import torch

from lit_pursamere.diffusion import SeededNoise, VariancePreserving, ddpm_step, diffuse, vp_noise
from lit_pursamere.purifiers import GDMP
from lit_pursamere.purifiers.gdmp import negative_mse, ssim

POWERS = VariancePreserving().alpha_bar_table.tolist()


def test_unguided_and_once_it_is_ddpms_stepping_from_36_with_the_first_call_at_35(mixture, images, watched):
    model, noise = watched(mixture), SeededNoise(2)
    purified = GDMP(model, "none", rounds=1, seed=2).under("fixed")(images)
    u = diffuse(2 * images - 1, POWERS[36], noise.draw("forward", 0, 1, images)[0])
    for k, i in enumerate(range(35, -1, -1), start=1):
        z = noise.draw("reverse", k, 1, images)[0] if i else 0.0
        u = ddpm_step(u, vp_noise(mixture, u, POWERS[i]), POWERS[i], POWERS[i - 1] if i else 1.0, z)
    assert torch.equal(purified, ((u + 1) / 2).clamp(0, 1))
    expected = [math.sqrt(1 / POWERS[i] - 1) / 2 for i in range(35, -1, -1)]
    assert model.sigmas == pytest.approx(expected)


@pytest.mark.parametrize("guide", ["none", "mse", "ssim"])
def test_network_calls_and_gaussians(mixture, images, watched, watched_noise, guide):
    """148 Gaussians, of which the four at index 0 are not drawn because they would not be used, and 144 for a guide."""
    model = watched(mixture)
    GDMP(model, guide)(images, watched_noise)
    assert len(model.seen) == 144
    streams = [stream for stream, _ in watched_noise.drawn]
    assert len(set(watched_noise.drawn)) == len(streams)
    expected = {"forward": 4, "reverse": 140, "guide": 144 if guide != "none" else 0}
    assert {stream: streams.count(stream) for stream in expected} == expected


@pytest.mark.parametrize("guide", ["mse", "ssim"])
def test_the_push_on_an_image_is_the_same_alone_and_among_a_hundred(tiny_score, guide):
    generator = torch.Generator().manual_seed(3)
    u, u_ref = (2 * torch.rand((100, 1, 8, 8), generator=generator, dtype=torch.float64) - 1 for _ in range(2))
    purifier = GDMP(tiny_score.double(), guide)
    together = purifier._guidance(u, u_ref)
    alone = torch.cat([purifier._guidance(u[i : i + 1], u_ref[i : i + 1]) for i in range(100)])
    assert torch.allclose(alone, together, rtol=1e-12, atol=0)
    assert together.abs().max() > 1e-3


def test_the_mse_push_has_the_official_strength(mixture):
    """18.7 sqrt((1 - alpha_bar) / alpha_bar) (u_ref - u) times the variance, for CIFAR-10's 3072 pixels."""
    u, u_ref = torch.zeros((2, 3, 32, 32)).double(), torch.ones((2, 3, 32, 32)).double()
    purifier = GDMP(mixture, "mse")
    push = purifier.scale * 3 / (2 * purifier.eps) * purifier._guidance(u, u_ref)
    assert torch.allclose(push, torch.full_like(push, 18.7), rtol=2e-3)


def test_a_guided_step_adds_the_push_to_the_mean(mixture, images):
    x, u, zero = images, 0.9 * images, torch.zeros_like(images)
    free, guided = GDMP(mixture, "none"), GDMP(mixture, "mse", scale=600.0)
    for i in (35, 1, 0):
        beta = 1 - POWERS[i] / (POWERS[i - 1] if i else 1)
        u_ref = math.sqrt(POWERS[i]) * (2 * x - 1)
        strength = 600 * 3 / (2 * 8 / 255) * math.sqrt((1 - POWERS[i]) / POWERS[i])
        expected = beta * strength * 2 / 8 * (u_ref - u)
        moved = guided._step(u, x, i, 0.0, zero)[0] - free._step(u, x, i, 0.0, None)[0]
        assert torch.allclose(moved, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("guide", "likeness"), [("mse", negative_mse), ("ssim", ssim)])
def test_a_guide_keeps_the_result_nearer_to_the_input(tiny_score, guide, likeness):
    x = torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    model = tiny_score.double()
    free, guided = (GDMP(model, g, scale=40.0, rounds=1, t_star=12, seed=1).under("fixed")(x) for g in ("none", guide))
    assert (likeness(guided, x) > likeness(free, x)).all()


def test_structural_similarity_is_the_textbooks():
    generator = torch.Generator().manual_seed(5)
    a, b = (torch.rand((2, 3, 16, 16), generator=generator, dtype=torch.float64) for _ in range(2))
    assert torch.allclose(ssim(a, a), torch.ones(2, dtype=torch.float64)) and torch.equal(ssim(a, b), ssim(b, a))
    by_hand = torch.stack([local_ssim(p, q).mean() for p, q in zip(a[0], b[0], strict=True)]).mean()
    assert torch.allclose(ssim(a, b)[0], by_hand, rtol=1e-10)


def local_ssim(a, b):
    """SSIM of every pixel of one channel by plain loops."""
    line = torch.tensor([math.exp(-((i - 5) ** 2) / 4.5) for i in range(11)], dtype=torch.float64)
    weights = torch.outer(line, line) / line.sum() ** 2
    padded = [torch.nn.functional.pad(image, (5, 5, 5, 5)) for image in (a, b)]
    result = torch.zeros_like(a)
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            p, q = (image[row : row + 11, column : column + 11] for image in padded)
            mp, mq = (weights * p).sum(), (weights * q).sum()
            vp, vq = (weights * (p - mp) ** 2).sum(), (weights * (q - mq) ** 2).sum()
            cov = (weights * (p - mp) * (q - mq)).sum()
            result[row, column] = (2 * mp * mq + 1e-4) * (2 * cov + 9e-4)
            result[row, column] /= (mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)
    return result


@pytest.mark.parametrize("guide", ["none", "mse", "ssim"])
def test_the_exact_gradient_agrees_with_finite_differences(mixture, images, guide):
    purifier = GDMP(mixture, guide, scale=30.0, rounds=2, t_star=3).under("fixed")
    x = images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_first_order_leaves_the_guide_out_of_the_derivative(mixture, images):
    x = images[:2].clone().requires_grad_()
    guided, free = (GDMP(mixture, guide, rounds=1, t_star=3).under("fixed") for guide in ("ssim", "none"))
    (exact,) = torch.autograd.grad(guided(x).sum(), x)
    guided.first_order = True
    (first,) = torch.autograd.grad(guided(x).sum(), x)
    assert not torch.allclose(exact, first)
    assert torch.equal(guided(x.detach()), guided(x).detach())
    assert not torch.allclose(guided(x.detach()), free(x.detach()))


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"guide": "lpips"}, "lpips"),
        ({"variance": "learned"}, "learned"),
        ({"scale": -1.0}, "-1.0"),
        ({"scale": math.nan}, "nan"),
        ({"rounds": 0}, "got 0"),
        ({"t_star": 0}, "and 0"),
        ({"t_star": 1000}, "and 1000"),
        ({"eps": 0.0}, "and 0.0"),
        ({"seed": -3}, "-3"),
    ],
)
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        GDMP(mixture, **arguments)
