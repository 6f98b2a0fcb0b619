"""DDPMpp is the released network: names, order, shapes, embeddings and outputs are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from lit_pursamere.networks import DDPMpp
from lit_pursamere.networks.unet_parts import sinusoidal_embedding


@pytest.fixture
def recorded(golden_tensors) -> tuple[DDPMpp, dict[str, Tensor]]:
    network = DDPMpp(nf=16, num_res_blocks=2)
    weights = golden_tensors("score_sde/ddpmpp_small_weights")
    network.load_state_dict({name: tensor for name, tensor in weights.items() if name != "sigmas"})
    return network.eval(), golden_tensors("score_sde/ddpmpp_small_io")


def test_full_size_names_order_and_shapes_are_the_released_ones(golden):
    official = json.loads((golden / "score_sde" / "keys_official.json").read_text())
    with torch.device("meta"):
        network = DDPMpp()
    assert [name for name, _ in network.named_parameters()] == official["parameter_names_in_order"]
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert shapes == [(name, shape) for name, (shape, _) in official["state_dict"].items() if name != "sigmas"]


@pytest.mark.parametrize(("blocks", "count"), [(8, 106_632_579), (4, 61_804_419)])
def test_number_of_parameters(blocks, count):
    with torch.device("meta"):
        network = DDPMpp(num_res_blocks=blocks)
    assert sum(p.numel() for p in network.parameters()) == count


def test_outputs_are_the_recorded_ones(recorded):
    network, io = recorded
    with torch.no_grad():
        error = (network(io["x"], io["labels"]) - io["out"]).flatten(1).norm(dim=1)
    assert (error < 1e-5 * io["out"].flatten(1).norm(dim=1)).all()


def test_embedding_is_the_recorded_one(recorded):
    _, io = recorded
    embedding = sinusoidal_embedding(io["labels"], 16, torch.float32)
    assert torch.allclose(embedding, io["temb_sinusoid"], rtol=0, atol=1e-4)  # float32 knows angles of 999 to 6e-5


def test_levels_attend_at_the_sizes_asked_for():
    with torch.device("meta"):
        network = DDPMpp(8, (1, 2, 2), 1, attn_resolutions=(7, 28), channels=1, image_size=28)
    names = {name.split(".")[1] for name in network.state_dict() if "NIN_0" in name}
    assert sorted(map(int, names)) == [4, 9, 11, 15, 22]  # 28 down, 7 down, middle, 7 up, 28 up


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"nf": 0}, "got 0"),
        ({"nf": 18}, "got 18"),
        ({"nf": 132}, "132 channels into 32"),
        ({"ch_mult": ()}, r"got \[\]"),
        ({"ch_mult": (1, 0)}, r"got \[128, 0\]"),
        ({"num_res_blocks": 0}, "got 0 and 3"),
        ({"image_size": 28}, "got 28"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value), torch.device("meta"):
        DDPMpp(**arguments)
