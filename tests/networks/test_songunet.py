"""SongUNet is the released network: names, order, shapes and raw outputs are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from lit_pursamere.networks import SongUNet


@pytest.fixture
def recorded(golden_tensors) -> dict[str, Tensor]:
    return golden_tensors("edm/songunet_small")


@pytest.fixture
def network(recorded) -> SongUNet:
    prefix, network = "weights.model.", SongUNet(model_channels=16, num_blocks=1)
    weights = {name.removeprefix(prefix): tensor for name, tensor in recorded.items() if name.startswith(prefix)}
    network.load_state_dict({name: t for name, t in weights.items() if not name.endswith("resample_filter")})
    return network.eval()


def test_full_size_names_order_and_shapes_are_the_released_ones(golden):
    official = json.loads((golden / "edm" / "keys_official.json").read_text())
    with torch.device("meta"):
        network = SongUNet()
    assert [f"model.{name}" for name, _ in network.named_parameters()] == official["parameter_names_in_order"]
    shapes = [(f"model.{name}", list(tensor.shape)) for name, tensor in network.state_dict().items()]
    expected = {name: shape for name, (shape, _) in official["state_dict"].items() if name not in official["buffers"]}
    assert shapes == list(expected.items())
    assert all(name.endswith("resample_filter") for name in official["buffers"])


def test_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in SongUNet().parameters()) == 55_733_891


@pytest.mark.parametrize("preconditioning", ["edm", "vp"])
def test_raw_outputs_are_the_recorded_ones(recorded, network, preconditioning):
    inputs, labels, expected = (recorded[f"{preconditioning}.{name}"] for name in ("net_input", "c_noise", "F"))
    with torch.no_grad():
        error = (network(inputs, labels) - expected).flatten(1).norm(dim=1)
    assert (error < 1e-5 * expected.flatten(1).norm(dim=1)).all()


def test_released_resampling_filters_are_the_means_the_network_computes(recorded):
    filters = [tensor for name, tensor in recorded.items() if name.endswith("resample_filter")]
    assert len(filters) == 8
    assert all(torch.equal(tensor, torch.full((1, 1, 2, 2), 0.25)) for tensor in filters)


def test_augmentation_label_of_zeros_changes_nothing(recorded, network):
    without = SongUNet(model_channels=16, num_blocks=1, augment_dim=0).eval()
    state = network.state_dict()
    assert state.keys() - without.state_dict().keys() == {"map_augment.weight"}
    assert state.pop("map_augment.weight").any()
    without.load_state_dict(state)
    x, labels = recorded["edm.net_input"], recorded["edm.c_noise"]
    with torch.no_grad():
        assert torch.equal(network(x, labels), without(x, labels))


def test_decoder_attends_in_the_last_block_of_a_level_only():
    with torch.device("meta"):
        network = SongUNet(8, (1, 2), 2, attn_resolutions=(28,), channels=1, image_size=28)
    names = [name.removesuffix(".qkv.weight") for name in network.state_dict() if name.endswith("qkv.weight")]
    assert names == ["enc.28x28_block0", "enc.28x28_block1", "dec.14x14_in0", "dec.28x28_block2"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"model_channels": 0}, "got 0"),
        ({"model_channels": 18}, "got 18"),
        ({"model_channels": 132, "channel_mult": (1,)}, "132 channels into 32"),
        ({"channel_mult": ()}, r"got \[\]"),
        ({"channel_mult": (1, -2)}, r"got \[128, -256\]"),
        ({"num_blocks": 0}, "got 0 and 3"),
        ({"image_size": 30}, "got 30"),
        ({"augment_dim": -1}, "got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value), torch.device("meta"):
        SongUNet(**arguments)
