"""The residual networks for CIFAR read the released layouts, and are the blocks that their papers draw."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lit_pursamere.networks import CIFARResNet, ResNet4b, ResNet18
from lit_pursamere.weights import inspect_weights, load_weights


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (CIFARResNet, 269_722),
        (lambda: CIFARResNet(56), 853_018),
        (ResNet18, 11_173_962),
        (ResNet4b, 123_734),
    ],
)
def test_numbers_of_parameters_are_those_of_the_released_files(network, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in network().parameters()) == parameters


def test_a_shortcut_without_parameters_subsamples_and_pads():
    network = CIFARResNet(8).eval()
    (block,) = network.layer2
    for parameter in block.parameters():
        parameter.data.zero_()
    x = torch.rand((2, 16, 6, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2]) and not out[:, :8].any() and not out[:, 24:].any()


def test_a_block_adds_its_shortcut_before_the_last_relu():
    network = ResNet4b().double().eval()
    block, x = network.layer1[0], torch.randn((2, 16, 8, 8), dtype=torch.float64)
    weights = dict(block.named_parameters())
    h = F.conv2d(x, weights["conv1.weight"], weights["conv1.bias"], stride=2, padding=1).clamp(min=0)
    h = F.conv2d(h, weights["conv2.weight"], weights["conv2.bias"], padding=1)
    h = h + F.conv2d(x, weights["shortcut.0.weight"], weights["shortcut.0.bias"], stride=2)
    assert torch.allclose(block(x), h.clamp(min=0), rtol=0, atol=1e-12)


def test_normalising_inside_equals_normalising_outside():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    plain, inside = CIFARResNet(8).eval(), CIFARResNet(8, mean=mean, std=std).eval()
    inside.load_state_dict(plain.state_dict())
    x = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    outside = (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        assert torch.allclose(inside(x), plain(outside), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", [lambda: CIFARResNet(8), ResNet18, ResNet4b], ids=["CIFAR", "18", "4b"])
def test_released_layouts_load(tmp_path, network):
    """Under `state_dict`, each name with the prefix of a parallel network."""
    one, other = network(), network()
    state = {f"module.{name}": tensor for name, tensor in one.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "released.th")
    load_weights(other, tmp_path / "released.th")
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert "ResNet-" in inspect_weights(tmp_path / "released.th").architecture


def test_other_depths_and_sizes_are_refused():
    for depth in (19, 2, 0):
        with pytest.raises(ValueError, match=f"depth of 6 n \\+ 2 .*got {depth}"):
            CIFARResNet(depth)
    with pytest.raises(ValueError, match="32x32 pixels; got 28x28"):
        ResNet4b()(torch.rand(1, 3, 28, 28))
