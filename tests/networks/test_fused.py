"""The kernels compute what the plain formulas compute, forward, backward and twice; without them nothing is missing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lit_pursamere.networks import NCSNv2, fused, kernels
from lit_pursamere.networks.build import build

SHAPES = [(3, 16, 9, 12), (2, 3, 7, 5), (4, 2, 4, 3), (1, 70, 2, 2), (2, 8, 1, 1)]


@pytest.fixture
def without(monkeypatch):
    monkeypatch.setenv("LIT_PURSAMERE_KERNELS", "0")
    kernels.library.cache_clear()
    yield
    kernels.library.cache_clear()


def arrays(shape: tuple[int, ...], count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    made = [2 * torch.randn(shape, generator=generator) + 1 for _ in range(count)]
    made[0][:, 0] = 0.75  # a constant channel whose mean has no rounding
    return [array.contiguous(memory_format=torch.channels_last).requires_grad_() for array in made]


def inputs(name: str, shape: tuple[int, ...]) -> list[Tensor]:
    if name == "norm_elu":
        generator = torch.Generator().manual_seed(1)
        return arrays(shape, 1) + [torch.randn(shape[1], generator=generator).requires_grad_() for _ in range(3)]
    return arrays(shape, 2 if name == "sum" else 1)


def function(name: str):
    return getattr(fused, "add_elu" if name == "sum" else name)


def close(a: Tensor, b: Tensor, tolerance: float = 5e-6) -> bool:
    return torch.allclose(a.double(), b, rtol=0, atol=tolerance * (1 + b.abs().max().item()))


def derivatives(name: str, given: list[Tensor], twice: bool) -> list[Tensor]:
    """Values, gradients of a sum with uneven weights over both outputs, and gradients of the gradients' squares."""
    outputs = function(name)(*given)
    weights = [torch.sin(torch.arange(out.numel(), dtype=torch.float64) + k) for k, out in enumerate(outputs)]
    weights = [w.to(out.dtype).view_as(out) for w, out in zip(weights, outputs, strict=True)]
    first = torch.autograd.grad(outputs, given, weights, create_graph=twice)
    if not twice:
        return [*outputs, *first]
    smooth = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(smooth, given) if smooth.requires_grad else ()
    return [*outputs, *first, *second]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("name", ["norm_elu", "add_elu", "sum", "pool"])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_agree_with_the_plain_formulas_in_float64(built, shape, name, twice):
    given = inputs(name, shape)
    if twice and name == "norm_elu":  # the second derivative of a constant channel is all rounding in float32
        given[0] = arrays(shape, 2)[1]
        shape[2] * shape[3] > 4 or pytest.skip("next to constant")
    assert all(fused.fast(array) for array in given if array.ndim == 4)
    exact = [array.detach().double().requires_grad_() for array in given]
    assert not fused.fast(exact[0])
    found, expected = derivatives(name, given, twice), derivatives(name, exact, twice)
    assert len(found) == len(expected)
    assert all(close(a, b, 5e-5 if twice else 5e-6) for a, b in zip(found, expected, strict=True))


def test_equal_maxima_get_the_gradient_that_torch_gives_them(built):
    generator = torch.Generator().manual_seed(0)
    h = torch.randint(0, 3, (2, 5, 8, 6), generator=generator).float().contiguous(memory_format=torch.channels_last)
    g = torch.randn(h.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    h.requires_grad_()
    (found,) = torch.autograd.grad(fused.pool(h)[1], h, g)
    (expected,) = torch.autograd.grad(fused.plain_pool(h), h, g)
    assert torch.allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["norm_elu", "add_elu", "pool"])
def test_what_is_not_a_number_is_not_hidden(built, name):
    h, *others = [array.detach() for array in inputs(name, (2, 4, 6, 6))]
    h[0, 1, 2, 3] = torch.nan
    found, expected = function(name)(h, *others)[1], function(name)(h.double(), *[o.double() for o in others])[1]
    assert expected.isnan().any() and torch.equal(found.isnan(), expected.isnan())


def test_small_and_large_arguments_keep_their_digits(built):
    h = torch.tensor([-1e-30, -1e-6, -1e-3, -0.3, -1.0, -20.0, -90.0, -torch.inf, 0.0, 1e-30, 5.0, torch.inf])
    h = h.reshape(1, -1, 1, 1)
    assert torch.allclose(
        fused.add_elu(h)[1].double(), torch.expm1(h.double().clamp_max(0)) + h.clamp_min(0), rtol=3e-7
    )


def test_an_image_does_not_depend_on_its_batch_nor_on_threads(built):
    network = NCSNv2(8, 3, 8).to(memory_format=torch.channels_last).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    h = [torch.randn((5, 8, 8, 8), generator=generator).contiguous(memory_format=torch.channels_last)]
    together = network.normalizer.with_elu(h[0])[1]
    alone = torch.cat([network.normalizer.with_elu(image[None])[1] for image in h[0]])
    assert torch.equal(together, alone)


def test_a_network_gives_the_same_scores_and_gradients_with_kernels(built, golden_score, golden_tensors, monkeypatch):
    io = golden_tensors("ncsnv2/cifar10_small_io")
    network = golden_score("cifar10").network
    y = io["x"].requires_grad_()

    def answer() -> tuple[Tensor, Tensor]:
        out = network(y)
        return out.detach(), torch.autograd.grad(out.square().sum(), y)[0]

    asked = []
    monkeypatch.setattr(fused, "call", lambda name, *a, call=fused.call: (asked.append(name), call(name, *a)))
    found = answer()
    assert {*asked} == {name for name in kernels.ARGUMENTS if not name.startswith("group_norm")}
    monkeypatch.setattr(fused, "fast", lambda h: False)
    for a, b in zip(found, answer(), strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()


def test_weights_get_the_same_gradients_with_kernels(built, monkeypatch):
    torch.manual_seed(0)
    network = NCSNv2(4, 1, 8).to(memory_format=torch.channels_last)
    y = torch.rand(3, 1, 8, 8)
    found = torch.autograd.grad(network(y).square().sum(), list(network.parameters()))
    monkeypatch.setattr(fused, "fast", lambda h: False)
    expected = torch.autograd.grad(network(y).square().sum(), list(network.parameters()))
    assert all((a - b).norm() <= 1e-4 * b.norm() + 1e-6 for a, b in zip(found, expected, strict=True))


def test_without_a_library_the_plain_formulas_are_used(without):
    assert kernels.library() is None
    h, *parameters = inputs("norm_elu", (2, 3, 4, 4))
    assert torch.equal(fused.norm_elu(h, *parameters)[1], fused.plain_norm_elu(h, *parameters))


@pytest.mark.parametrize("kind", ["meta", "bfloat16", "contiguous", "float64"])
def test_other_tensors_take_the_plain_formulas(built, kind):
    h = arrays((2, 4, 6, 6), 1)[0].detach()
    other = {"meta": lambda: h.to("meta"), "bfloat16": h.bfloat16, "contiguous": h.contiguous, "float64": h.double}
    h = other[kind]()
    assert not fused.fast(h) and fused.add_elu(h)[1].dtype == h.dtype


@pytest.mark.slow
def test_a_compiled_network_takes_the_plain_formulas_in_one_graph(built, monkeypatch):
    network = NCSNv2(4, 1, 8).to(memory_format=torch.channels_last).requires_grad_(False)
    y = torch.rand(2, 1, 8, 8)
    expected = network(y)
    monkeypatch.setattr(fused, "call", None)  # would fail
    assert torch.allclose(torch.compile(network, backend="eager", fullgraph=True)(y), expected, atol=1e-5)


def test_a_compiler_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("LIT_PURSAMERE_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(RuntimeError, match="no compiler 'no-such-compiler'"):
        build()


def test_a_compiler_that_fails_says_why_and_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("LIT_PURSAMERE_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    with pytest.raises(RuntimeError, match=r"false .* failed"):
        build()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_library_that_cannot_be_loaded_is_left_out_with_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("LIT_PURSAMERE_CACHE", str(tmp_path))
    monkeypatch.delenv("LIT_PURSAMERE_KERNELS", raising=False)
    kernels.path().parent.mkdir()
    kernels.path().write_text("not a library")
    kernels.library.cache_clear()
    with pytest.warns(UserWarning, match="cannot be loaded"):
        assert kernels.library() is None
    kernels.library.cache_clear()
