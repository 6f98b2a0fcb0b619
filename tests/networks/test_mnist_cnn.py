"""The small networks of papers on MNIST are their layers, and start as their papers say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lit_pursamere.networks import LeNet5, MadryCNN
from lit_pursamere.weights import inspect_weights, load_weights

BOTH = pytest.mark.parametrize("network", [MadryCNN, LeNet5])


@pytest.mark.parametrize(("network", "parameters"), [(MadryCNN, 3_274_634), (LeNet5, 648_226)])
def test_numbers_of_parameters(network, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in network().parameters()) == parameters


@BOTH
def test_it_is_two_convolutions_and_two_linear_layers(network):
    small = network(num_classes=3, channels=2, image_size=8).double()
    x = torch.randn((2, 2, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = list(small.parameters())
    h = x
    for weight, bias in (weights[:2], weights[2:4]):
        h = F.max_pool2d(F.conv2d(h, weight, bias, padding=weight.shape[-1] // 2).clamp(min=0), 2)
    h = F.linear(h.flatten(1), *weights[4:6]).clamp(min=0)
    assert torch.allclose(small(x), F.linear(h, *weights[6:]), rtol=0, atol=1e-12)


def test_madrys_weights_start_within_two_deviations_of_a_tenth():
    network = MadryCNN(image_size=8)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            assert parameter.eq(0.1).all()
        else:
            assert 0.15 < parameter.abs().max() <= 0.2 and abs(parameter.std().item() - 0.088) < 0.005


@BOTH
def test_a_released_state_dict_loads_and_is_recognised(tmp_path, network):
    one, other = network(), network()
    torch.save(one.state_dict(), tmp_path / "released.pt")
    load_weights(other, tmp_path / "released.pt")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    known = {MadryCNN: "Madry's CNN, 1 channel", LeNet5: "LeNet5 of AdverTorch, 1 channel"}[network]
    assert inspect_weights(tmp_path / "released.pt").architecture == known


@BOTH
def test_other_sizes_are_refused(network):
    with pytest.raises(ValueError, match=f"{network.__name__} needs an image_size of 4 n.*got 30, 1 and 10"):
        network(image_size=30)
    with pytest.raises(ValueError, match=f"this {network.__name__} classifies images of 28x28 pixels; got 32x32"):
        network()(torch.rand(1, 1, 32, 32))
