"""Group norm and SiLU by kernels compute what the plain formula computes, and step aside where they must."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks import fused
from lit_pursamere.networks.fused_unet import norm_act

# Images, channels, groups, height and width: groups of one channel and of all, odd sizes, more channels than a row.
SHAPES = [(3, 16, 4, 9, 7), (2, 12, 12, 5, 3), (1, 20, 1, 1, 5), (2, 96, 24, 4, 4), (4, 8, 2, 1, 1), (1, 3, 3, 8, 8)]
TOLD = ["nothing", "before", "scale and shift", "all", "one row for all images"]


def given(shape: tuple[int, ...], told: str) -> tuple[Tensor, nn.GroupNorm, list[Tensor | None], list[Tensor]]:
    """Images in channels last, a norm, what the embedding tells, and weights of both outputs."""
    images, channels, groups, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = nn.GroupNorm(groups, channels, eps=1e-4).requires_grad_(False)
        norm.weight.normal_()
        norm.bias.normal_()
        h, *weights = torch.randn(3, images, channels, height, width)
        rows = torch.randn(3, 1 if told.startswith("one") else images, channels)
    use = {"nothing": (), "before": (0,), "scale and shift": (1, 2)}.get(told, (0, 1, 2))
    h = (2 * h + 1).contiguous(memory_format=torch.channels_last).requires_grad_()
    return h, norm, [rows[k] if k in use else None for k in range(3)], weights


def derivatives(h: Tensor, norm: nn.Module, told: list[Tensor | None], weights: list[Tensor], twice: bool = False):
    """Values, the gradient of a weighted sum of both outputs, and the gradient of its square."""
    outputs = norm_act(h, norm, F.silu, *told)
    (first,) = torch.autograd.grad(outputs, h, weights, create_graph=twice)
    second = torch.autograd.grad(first.square().sum(), h) if twice else ()
    return [*outputs, first, *second]


@pytest.fixture
def asked(monkeypatch) -> list[str]:
    """Names of the kernels that ran."""
    names: list[str] = []
    monkeypatch.setattr(fused, "call", lambda name, *a, call=fused.call: (names.append(name), call(name, *a)))
    return names


def in_double(told: list[Tensor | None]) -> list[Tensor | None]:
    return [t if t is None else t.double() for t in told]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_agrees_with_the_plain_formula_in_float64(built, asked, shape, told, twice):
    h, norm, rows, weights = given(shape, told)
    found = derivatives(h, norm, rows, weights, twice)
    assert asked == ["group_norm_silu"] + ["group_norm_silu_back"] * (not twice)
    exact = [w.double() for w in weights]
    expected = derivatives(h.detach().double().requires_grad_(), norm.double(), in_double(rows), exact, twice)
    assert "group_norm_silu" not in asked[1:]
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= (1e-4 if twice else 2e-6) * (1 + b.abs().max())


def test_a_gradient_that_comes_one_way_only_is_that_way_s(built):
    h, norm, rows, (g, _) = given(SHAPES[0], "before")
    plain = norm_act(h.double(), copy.deepcopy(norm).double(), F.silu, *in_double(rows))[1]
    kept, out = norm_act(h, norm, F.silu, *rows)
    assert torch.equal(torch.autograd.grad(kept, h, g, retain_graph=True)[0], g)
    (found,), (expected,) = torch.autograd.grad(out, h, g), torch.autograd.grad(plain, h, g.double())
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("value", [-1e4, -90.0, -87.5, -20.0, -1e-3, 0.0, 1e-6, 3.0, 20.0, 88.0, 1e4])
def test_silu_and_its_slope_keep_their_digits_everywhere(built, value):
    h, norm, _, (g, _) = given((2, 4, 4, 3, 5), "nothing")
    norm.bias.fill_(value)
    norm.weight.zero_()
    out = norm_act(h, norm, F.silu)[1]
    assert torch.allclose(out.double(), F.silu(norm.bias.double()).view(1, -1, 1, 1), rtol=5e-7, atol=1e-30)
    norm.weight.fill_(1.0)
    exact = norm_act(h.double(), copy.deepcopy(norm).double(), F.silu)[1]
    (found,), (expected,) = (
        torch.autograd.grad(out, h, g.to(out.dtype)) for out in (norm_act(h, norm, F.silu)[1], exact)
    )
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


def test_what_is_not_a_number_is_not_hidden(built):
    h, norm, *_ = given((2, 4, 2, 3, 3), "nothing")
    h = h.detach()
    h[0, 1, 2, 2] = torch.nan
    found = norm_act(h, norm, F.silu)[1]
    assert torch.equal(found.isnan(), F.silu(norm(h)).isnan()) and found.isnan().any() and not found.isnan().all()


def test_an_image_does_not_depend_on_its_batch(built):
    h, norm, (before, *_), _ = given(SHAPES[0], "before")
    together = norm_act(h, norm, F.silu, before)[1]
    alone = [norm_act(h[i : i + 1], norm, F.silu, before[i : i + 1])[1] for i in range(len(h))]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("trained", ["norm", "embedding"])
def test_it_steps_aside_where_more_than_the_images_needs_a_gradient(built, asked, trained):
    h, norm, rows, _ = given(SHAPES[0], "before")
    (norm.requires_grad_(True).weight if trained == "norm" else rows[0]).requires_grad_()
    found = norm_act(h, norm, F.silu, *rows)[1]
    assert torch.equal(found, F.silu(norm(h + rows[0][:, :, None, None]))) and not asked


OTHERS = {"another norm": nn.BatchNorm2d(16).eval(), "no affine map": nn.GroupNorm(4, 16, affine=False)}


@pytest.mark.parametrize("what", [*OTHERS, "another activation", "contiguous"])
def test_it_steps_aside_for_what_the_kernel_is_not(built, asked, what):
    h, norm, rows, _ = given(SHAPES[0], "before")
    h, norm = h.contiguous() if what == "contiguous" else h, OTHERS.get(what, norm)
    act = F.relu if what == "another activation" else F.silu
    found = norm_act(h, norm, act, *rows)[1]
    assert torch.equal(found, act(norm(h + rows[0][:, :, None, None]))) and not asked


def test_numbers_of_other_types_are_torch_s_to_judge(built):
    h, norm, rows, _ = given(SHAPES[0], "before")
    with pytest.raises(RuntimeError):
        norm_act(h, norm.double(), F.silu, *rows)


def test_weights_that_could_be_trained_do_not_matter_without_gradients(built, asked):
    h, norm, rows, _ = given(SHAPES[0], "before")
    with torch.no_grad():
        norm_act(h, norm.requires_grad_(True), F.silu, *rows)
    assert asked == ["group_norm_silu"]
