"""DDPMUNet is the released network: names new and old, order, shapes and outputs are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch

from lit_pursamere.networks import DDPMUNet
from lit_pursamere.networks.ddpm_unet import OLD_ATTENTION_NAMES


@pytest.fixture
def official(golden) -> dict:
    return json.loads((golden / "diffusers_ddpm" / "keys_official.json").read_text())


def test_full_size_names_order_and_shapes_are_the_released_ones(official):
    with torch.device("meta"):
        network = DDPMUNet()
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert shapes == [(name, shape) for name, (shape, _) in official["state_dict"].items()]


def test_number_of_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in DDPMUNet().parameters()) == 35_746_307


def test_old_attention_names_become_the_new_ones(official):
    assert len(official["old_attention_names"]) == 48
    for new, old in official["old_attention_names"].items():
        renamed = old
        for before, after in OLD_ATTENTION_NAMES.items():
            renamed = renamed.replace(f".{before}.", f".{after}.")
        assert renamed == new != old


def test_outputs_are_the_recorded_ones(golden_tensors):
    data = golden_tensors("diffusers_ddpm/unet_small_trace")
    network = DDPMUNet((16, 32, 32, 32), layers_per_block=1, norm_num_groups=8).eval()
    network.load_state_dict({k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")})
    for expected, timestep in ((data["io.out"], data["io.t"].float()), (data["io.out_t100"], torch.full((4,), 100.0))):
        with torch.no_grad():
            error = (network(data["io.x"], timestep) - expected).flatten(1).norm(dim=1)
        assert (error < 1e-5 * expected.flatten(1).norm(dim=1)).all()


def test_levels_attend_where_asked_and_the_middle_always():
    with torch.device("meta"):
        network = DDPMUNet((8, 16), (False, True), 1, 4, channels=1, image_size=28)
    names = [name.removesuffix(".to_q.weight") for name in network.state_dict() if name.endswith("to_q.weight")]
    expected = ["down_blocks.1.attentions.0", "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"]
    assert names == [*expected, "mid_block.attentions.0"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"block_out_channels": (), "attention": ()}, r"got \[\]"),
        ({"block_out_channels": (130, 256, 256, 256)}, r"got \[130, 256, 256, 256\]"),
        ({"attention": (True, False)}, "4 levels but attention has 2 entries"),
        ({"layers_per_block": 0}, "got 0 and 3"),
        ({"norm_num_groups": 24}, "128 channels into 24"),
        ({"norm_num_groups": 0}, "128 channels into 0"),
        ({"image_size": 28}, "got 28"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value), torch.device("meta"):
        DDPMUNet(**arguments)
