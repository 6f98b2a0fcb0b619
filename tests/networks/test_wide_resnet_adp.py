"""WideResNetADP is ADP's network: names, shapes, logits and input gradients are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.networks import WideResNetADP

RAW = {"mean": None, "std": None}
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


@pytest.fixture
def recorded(golden_tensors):
    data = golden_tensors("classifier/wrn_small_adp")
    network = WideResNetADP(depth=10, width=1, **RAW)
    network.load_state_dict({k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")})
    return network.eval(), data


def test_full_size_names_order_and_shapes_are_the_released_ones(golden):
    keys = json.loads((golden / "classifier" / "wrn28_10_keys.json").read_text())["adp"]
    with torch.device("meta"):
        network = WideResNetADP()
    assert [name for name, _ in network.named_parameters()] == keys["parameter_names_in_order"]
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert shapes == [(name, shape) for name, (shape, _) in keys["state_dict"].items()]


def test_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in WideResNetADP().parameters()) == 36_489_290


def test_logits_are_the_recorded_ones(recorded):
    network, data = recorded
    with torch.no_grad():
        error = (network(data["x"]) - data["logits"]).norm(dim=1)
        assert (error < 1e-5 * data["logits"].norm(dim=1)).all()
        assert torch.allclose(network.double()(data["x"].double()), data["logits_f64"], rtol=0, atol=1e-12)


def test_input_gradient_is_the_recorded_one(recorded):
    network, data = recorded
    x = data["x"].requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(network(x), data["y"], reduction="sum"), x)
    expected = data["grad_x_ce_sum"]
    assert ((gradient - expected).flatten(1).norm(dim=1) < 1e-5 * expected.flatten(1).norm(dim=1)).all()


def test_an_image_alone_gives_the_same_logits_as_in_a_batch(recorded):
    network, data = recorded
    network, x = network.double(), data["x"].double()
    with torch.no_grad():
        together, alone = network(x), torch.cat([network(x[i : i + 1]) for i in range(len(x))])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    assert together.std() > 1e-3


def test_normalising_inside_equals_normalising_outside():
    inside, plain = WideResNetADP(10, 1).eval(), WideResNetADP(10, 1, **RAW).eval()
    plain.load_state_dict(inside.state_dict())
    x = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    outside = (x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        assert torch.allclose(inside(x), plain(outside), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(inside(x), plain(x), atol=1e-3)


def test_dropout_acts_in_training_only_and_before_the_second_normalisation():
    network = WideResNetADP(10, 1, channels=1, dropout=0.5, **RAW)
    seen = []
    network.layer1[0].bn2.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.rand((2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(network(x), network(x))
        assert 0.4 < (seen[0] == 0).float().mean() < 0.6
        network.eval()
        assert torch.equal(network(x), network(x))
        assert (seen[-1] != 0).all()


def test_batch_norm_momenta_are_the_released_ones():
    momenta = {
        name: layer.momentum for name, layer in WideResNetADP(10, 1).named_modules() if hasattr(layer, "momentum")
    }
    assert len(momenta) == 7
    assert {name for name, momentum in momenta.items() if momentum == 0.9} == {"bn1"}
    assert {momentum for name, momentum in momenta.items() if name != "bn1"} == {nn.BatchNorm2d(1).momentum}


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"depth": 29}, "got 29"),
        ({"depth": 4}, "got 4"),
        ({"width": 0}, "got 0 and 10"),
        ({"num_classes": 1}, "got 10 and 1"),
        ({"dropout": 1.0}, "got 1.0"),
        ({"dropout": -0.1}, "got -0.1"),
        ({"mean": None}, "0.2023"),
        ({"channels": 1}, "1 channels but mean has 3 entries"),
        ({"std": (0.2, 0.0, 0.2)}, "0.0"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value):
        WideResNetADP(**arguments)
