"""DMWideResNet is RobustBench's network: names, shapes, counts, logits and input gradients are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from lit_pursamere.networks import DMWideResNet, WideResNet
from lit_pursamere.weights import load_weights
from lit_pursamere.weights.architectures import recognise


@pytest.fixture
def recorded(golden_tensors):
    data = golden_tensors("classifier/dm_wrn_small")
    network = DMWideResNet(depth=10, width=2)
    network.load_state_dict({k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")})
    return network.eval(), data


@pytest.mark.parametrize(
    ("entry", "depth", "width", "parameters"),
    [("wrn_28_10", 28, 10, 36_479_194), ("wrn_70_16", 70, 16, 266_796_506)],
)
def test_full_size_names_order_and_shapes_are_the_released_ones(golden, entry, depth, width, parameters):
    official = json.loads((golden / "classifier/dm_keys_official.json").read_text())[entry]
    with torch.device("meta"):
        network, other = DMWideResNet(depth, width), WideResNet(depth, width)
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert shapes == list(official["keys"].items())
    assert sum(p.numel() for p in network.parameters()) == official["parameters"] == parameters
    assert sum(p.numel() for p in other.parameters()) == parameters, "WRN by depth and width has as many"
    assert recognise(network.state_dict()) == f"WRN-{depth}-{width} (DeepMind's, SiLU), 10 classes"


def test_logits_are_the_recorded_ones(recorded):
    network, data = recorded
    with torch.no_grad():
        assert torch.allclose(network(data["x"]), data["logits"], rtol=1e-5, atol=1e-6)
        assert torch.allclose(network.double()(data["x"].double()), data["logits_f64"], rtol=0, atol=1e-12)


def test_input_gradient_is_the_recorded_one(recorded):
    network, data = recorded
    x = data["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), data["y"], reduction="sum"), x)
    expected = data["input_gradient"]
    assert ((gradient - expected).flatten(1).norm(dim=1) < 1e-5 * expected.flatten(1).norm(dim=1)).all()


def test_files_with_the_authors_normalisation_load(tmp_path, recorded):
    """Released files hold mean and std as buffers; others than the network's are refused."""
    network, _ = recorded
    buffers = {
        "mean": torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1),
        "std": torch.tensor([0.2471, 0.2435, 0.2616]).view(3, 1, 1),
    }
    torch.save({f"module.{n}": t for n, t in (network.state_dict() | buffers).items()}, tmp_path / "released.pt")
    load_weights(DMWideResNet(10, 2), tmp_path / "released.pt")
    with pytest.raises(ValueError, match="was made for mean"):
        load_weights(DMWideResNet(10, 2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), tmp_path / "released.pt")


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"DMWideResNet needs a depth of 6 n .*got 29"):
        DMWideResNet(29)
