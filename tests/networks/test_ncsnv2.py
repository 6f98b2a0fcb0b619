"""NCSNv2 is the released network: names, order, shapes, activations, scores and gradients are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from lit_pursamere.networks import NCSNv2

MODULES = [f"res{stage}.{block}" for stage in range(1, 5) for block in range(2)]
MODULES += ["begin_conv", "refine1", "refine2", "refine3", "refine4", "normalizer", "end_conv"]


def worst(actual: Tensor, expected: Tensor) -> float:
    """Largest relative l2 error of a sample: scores differ by 5000x between noise levels."""
    error = (actual - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    return error.max().item()


def test_full_size_names_order_and_shapes_are_the_released_ones(golden):
    official = json.loads((golden / "ncsnv2" / "keys_official.json").read_text())["NCSNv2"]
    with torch.device("meta"):
        network = NCSNv2()
    assert [name for name, _ in network.named_parameters()] == official["parameter_names_in_order"]
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes == {name: shape for name, (shape, _) in official["state_dict"].items() if name != "sigmas"}


@pytest.mark.parametrize(("channels", "size", "count"), [(3, 32, 29_694_083), (1, 28, 29_689_473)])
def test_number_of_parameters(channels, size, count):
    with torch.device("meta"):
        network = NCSNv2(channels=channels, image_size=size)
    assert sum(p.numel() for p in network.parameters()) == count


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
@pytest.mark.parametrize(("dtype", "suffix", "tolerance"), [(torch.float32, "", 1e-5), (torch.float64, "_f64", 1e-12)])
def test_scores_and_vector_jacobian_product_are_the_recorded_ones(
    golden_tensors, golden_score, name, dtype, suffix, tolerance
):
    io = golden_tensors(f"ncsnv2/{name}_small_io")
    sigma = golden_tensors("ncsnv2/sigmas_cifar10")["sigmas"][io["labels"]].to(dtype)
    model = golden_score(name, dtype)
    x, x_noisy = io["x"].to(dtype), io["x_noisy"].to(dtype).requires_grad_()
    assert worst(model.score(x, sigma).detach(), io[f"score_x{suffix}"]) < tolerance
    score = model.score(x_noisy, sigma)
    assert worst(score.detach(), io[f"score_x_noisy{suffix}"]) < tolerance
    (vjp,) = torch.autograd.grad((score * io["vjp_v"].to(dtype)).sum(), x_noisy)
    assert worst(vjp, io[f"vjp_x_noisy{suffix}"]) < tolerance


@pytest.mark.parametrize("name", ["cifar10", "mnist"])
def test_every_block_outputs_the_recorded_activation(golden_tensors, golden_score, name):
    io = golden_tensors(f"ncsnv2/{name}_small_io")
    network, seen = golden_score(name).network, {}
    assert {f"act0.{module}" for module in MODULES} == {key for key in io if key.startswith("act0.")}
    for module in MODULES:
        network.get_submodule(module).register_forward_hook(lambda _, __, out, key=module: seen.update({key: out}))
    with torch.no_grad():
        network(io["x"][:1])
    for module in MODULES:
        assert worst(seen[module], io[f"act0.{module}"]) < 1e-5, module


def test_an_image_alone_gives_the_same_output_as_in_a_batch(tiny_score):
    network, generator = tiny_score.network.double(), torch.Generator().manual_seed(0)
    y = torch.randn((5, 1, 8, 8), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        together, alone = network(y), torch.cat([network(y[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    assert together.std() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"ngf": 0}, "ngf=0"),
        ({"ngf": 1}, "ngf=1"),
        ({"channels": 0}, "channels=0"),
        ({"image_size": 31}, "got 31"),
        ({"image_size": 2}, "got 2"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value):
        NCSNv2(**arguments)
