"""DMPreActResNet has RobustBench's names and shapes, and computes what a plain transcription computes from them."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_pursamere.networks import DMPreActResNet
from lit_pursamere.weights import load_weights

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2471, 0.2435, 0.2616]


@pytest.fixture(scope="module")
def network() -> DMPreActResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = DMPreActResNet().eval()
        for name, buffer in made.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return made.double()


def plain(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network, written out: every strided convolution pads right and below, every shortcut takes the raw input."""

    def bn(name: str, h: Tensor) -> Tensor:
        told = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
        return F.silu(F.batch_norm(h, *told))

    def conv(name: str, h: Tensor, stride: int = 1) -> Tensor:
        h = F.pad(h, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        return F.conv2d(h, state[f"{name}.weight"], stride=stride)

    mean, std = (torch.tensor(values).to(x.dtype).view(1, 3, 1, 1) for values in (MEAN, STD))
    h = conv("conv_2d", (x - mean) / std)
    for layer in range(4):
        for block in range(2):
            name, stride = f"layer_{layer}.{block}", 2 if layer and not block else 1
            inner = conv(f"{name}.conv_2d_1", bn(f"{name}.batchnorm_0", h), stride)
            inner = conv(f"{name}.conv_2d_2", bn(f"{name}.batchnorm_1", inner))
            h = inner + (conv(f"{name}.shortcut", h, stride) if stride == 2 else h)
    h = F.avg_pool2d(bn("batchnorm", h), 4).flatten(1)
    return h @ state["logits.weight"].T + state["logits.bias"]


def test_logits_are_those_of_a_plain_transcription(network):
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(network(x), plain(network.state_dict(), x), rtol=0, atol=1e-12)


def test_names_order_and_shapes_are_the_released_ones(golden):
    official = json.loads((golden / "classifier/dm_keys_official.json").read_text())["preact_resnet_18"]
    with torch.device("meta"):
        network, deeper = DMPreActResNet(), DMPreActResNet(34)
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert shapes == list(official["keys"].items())
    assert sum(p.numel() for p in network.parameters()) == official["parameters"] == 12_548_426
    assert sum(1 for name in deeper.state_dict() if name.endswith("conv_2d_1.weight")) == 16


def test_files_with_the_authors_normalisation_load(tmp_path, network):
    """Released files hold mean and std as buffers."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    torch.save({**network.float().state_dict(), "mean": mean, "std": std}, tmp_path / "released.pt")
    network.double()
    other = DMPreActResNet()
    load_weights(other, tmp_path / "released.pt")
    assert torch.equal(other.logits.weight, network.logits.weight.float())


@pytest.mark.parametrize("arguments", [{"depth": 50}, {"num_classes": 0}])
def test_bad_arguments_are_named(arguments):
    with pytest.raises(ValueError, match="DMPreActResNet needs depth 18 or 34, and num_classes >= 1; got"):
        DMPreActResNet(**arguments)
