"""DDPMUNet is the released network: names new and old, order, shapes and outputs are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch

from lit_pursamere.networks import DDPMUNet
from lit_pursamere.networks.ddpm_unet import OLD_ATTENTION_NAMES
from lit_pursamere.networks.unet2d_config import unet_arguments


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


CONFIG = {
    "_class_name": "UNet2DModel", "sample_size": 16, "block_out_channels": [16, 32], "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
}  # fmt: skip
SETTINGS = [
    {}, {"attention_head_dim": None}, {"attention_head_dim": 4, "freq_shift": 1}, {"flip_sin_to_cos": False},
    {"downsample_padding": 0}, {"act_fn": "gelu", "norm_eps": 1e-3}, {"act_fn": "mish"}, {"out_channels": 6},
    {"resnet_time_scale_shift": "scale_shift"}, {"mid_block_scale_factor": 2.0}, {"add_attention": False},
]  # fmt: skip


def test_the_released_configuration_makes_the_default_network(official):
    with torch.device("meta"):
        stated, default = DDPMUNet(**unet_arguments(official["config"])), DDPMUNet()
    assert stated.settings == default.settings
    assert {n: t.shape for n, t in stated.state_dict().items()} == {n: t.shape for n, t in default.state_dict().items()}


@pytest.mark.parametrize("more", SETTINGS, ids=str)
def test_outputs_are_those_of_diffusers_in_every_setting(more):
    """Where that library is installed; it is none of this package's dependencies."""
    library = pytest.importorskip("diffusers")
    arguments = {name: value for name, value in (CONFIG | more).items() if name != "_class_name"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = library.UNet2DModel(**arguments).eval()
        for parameter in reference.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        x = torch.randn(3, 3, 16, 16)
    network, times = DDPMUNet(**unet_arguments(dict(reference.config))).eval(), torch.tensor([0, 500, 999])
    network.load_state_dict(reference.state_dict())
    with torch.no_grad():
        expected = reference(x, times).sample
        error = (network(x, times) - expected).flatten(1).norm(dim=1)
    assert (error < 1e-5 * expected.flatten(1).norm(dim=1)).all()


@pytest.mark.parametrize("more", SETTINGS[1:], ids=str)
def test_every_setting_makes_a_difference(more):
    """The same weights, another output, or other weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = DDPMUNet(**unet_arguments(CONFIG)).eval()
        for parameter in plain.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
        x = torch.randn(2, 3, 16, 16)
    other, times = DDPMUNet(**unet_arguments(CONFIG | more)).eval(), torch.tensor([3.0, 700.0])
    shapes = [{name: tensor.shape for name, tensor in network.state_dict().items()} for network in (plain, other)]
    if shapes[0] == shapes[1]:
        other.load_state_dict(plain.state_dict())
        with torch.no_grad():
            assert not torch.allclose(other(x, times), plain(x, times), rtol=1e-3, atol=1e-3)
    else:
        assert set(more) & {"out_channels", "resnet_time_scale_shift", "add_attention"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"_class_name": "UNet2DConditionModel"}, "_class_name UNet2DConditionModel"),
        ({"time_embedding_type": "fourier", "center_input_sample": True},
         "time_embedding_type fourier; center_input_sample True"),
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "the block SkipDownBlock2D"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "attention on other levels up"),
        ({"num_class_embeds": 1000}, "num_class_embeds 1000"),
        ({"out_channels": 4}, "in_channels 3 and out_channels 4"),
        ({"downsample_type": "resnet"}, "downsample_type resnet"),
        ({"layers_per_block": 10**9}, "holds layers_per_block 1000000000"),
        ({"block_out_channels": [16.0, 32.0]}, r"holds block_out_channels \[16\.0, 32\.0\]"),
        ({"norm_eps": "small"}, "holds norm_eps 'small', which is no such setting"),
        ({"down_block_types": [1, 2]}, r"holds down_block_types \[1, 2\]"),
    ],
)  # fmt: skip
def test_what_a_configuration_asks_for_in_vain_is_named(more, message):
    with pytest.raises(ValueError, match=message) as caught:
        unet_arguments(CONFIG | more)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"attention_head_dim": 48}, "256 channels into heads of attention_head_dim 48"),
        ({"act_fn": "tanh"}, "got 'tanh'"),
        ({"downsample_padding": 2}, "0 or 1; got 2"),
        ({"resnet_time_scale_shift": "spatial"}, "got 'spatial'"),
        ({"norm_eps": 0}, "norm_eps above 0; got 0"),
        ({"mid_block_scale_factor": 0}, "above 0; got 0"),
        ({"freq_shift": 64}, "got 64"),
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
