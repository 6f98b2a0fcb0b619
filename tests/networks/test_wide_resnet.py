"""WideResNet is RobustBench's network: names, shapes, logits and input gradients are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F

from lit_pursamere.networks import WideResNet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@pytest.fixture
def recorded(golden_tensors):
    data = golden_tensors("classifier/wrn_small_robustbench")
    network = WideResNet(depth=10, width=1)
    network.load_state_dict({k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")})
    return network.eval(), data


def test_full_size_names_order_and_shapes_are_the_released_ones(golden):
    keys = json.loads((golden / "classifier" / "wrn28_10_keys.json").read_text())["robustbench_standard"]
    with torch.device("meta"):
        network = WideResNet()
    assert [name for name, _ in network.named_parameters()] == keys["parameter_names_in_order"]
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert shapes == [(name, shape) for name, (shape, _) in keys["state_dict"].items()]
    assert sum(p.numel() for p in network.parameters()) == keys["n_parameters"] == 36_479_194


def test_logits_are_the_recorded_ones(recorded):
    network, data = recorded
    with torch.no_grad():
        assert torch.allclose(network(data["x"]), data["logits"], rtol=1e-5, atol=1e-6)
        assert torch.allclose(network.double()(data["x"].double()), data["logits_f64"], rtol=0, atol=1e-12)


def test_input_gradient_is_the_recorded_one(recorded):
    network, data = recorded
    x = data["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), data["y"], reduction="sum"), x)
    expected = data["grad_x_ce_sum"]
    assert ((gradient - expected).flatten(1).norm(dim=1) < 1e-5 * expected.flatten(1).norm(dim=1)).all()


def test_normalising_inside_equals_normalising_outside():
    plain, inside = WideResNet(10, 1).eval(), WideResNet(10, 1, mean=MEAN, std=STD).eval()
    inside.load_state_dict(plain.state_dict())
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    outside = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        assert torch.allclose(inside(x), plain(outside), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(inside(x), plain(x), atol=1e-3)


def test_dropout_acts_in_training_only():
    network = WideResNet(10, 1, dropout=0.5)
    x = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(network(x), network(x))
        network.eval()
        assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"depth": 29}, "got 29"),
        ({"depth": 4}, "got 4"),
        ({"width": 0}, "got 0 and 10"),
        ({"num_classes": 1}, "got 10 and 1"),
        ({"dropout": 1.0}, "got 1.0"),
        ({"dropout": -0.1}, "got -0.1"),
        ({"mean": MEAN}, "0.4914"),
        ({"mean": MEAN, "std": (0.2,)}, "1 entries"),
        ({"mean": (0.5,), "std": STD}, "1 entries"),
        ({"mean": MEAN, "std": (0.2, 0.0, 0.2)}, "0.0"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value):
        WideResNet(**arguments)
