"""Architectures are recognised from names and shapes, those of the published full-size networks among them."""

from __future__ import annotations

import json

import pytest
import torch

from lit_pursamere.networks import DenoisingAutoencoder, FFDNet, MagNetAutoencoder, NCSNv2, WideResNet
from lit_pursamere.weights.architectures import recognise


def tensors(shapes):
    return {name: torch.empty(shape, device="meta") for name, (shape, _) in shapes.items()}


@pytest.mark.parametrize(
    ("file", "entry", "expected"),
    [
        ("ncsnv2/keys_official", "NCSNv2", "NCSNv2 ngf 128, 3 channels"),
        ("ncsnv2/keys_official", "NCSNv2Deeper", "NCSNv2Deeper ngf 128, 3 channels"),
        ("ncsnv2/keys_official", "NCSNv2Deepest", "NCSNv2Deepest ngf 128, 3 channels"),
        ("score_sde/keys_official", None, "DDPM++ nf 128, 8 blocks per resolution, 3 channels"),
        ("edm/keys_official", None, "SongUNet 128 channels wide, 4 blocks per resolution, 32x32x3"),
        ("diffusers_ddpm/keys_official", None, "UNet2DModel 128-256-256-256, 2 layers per block, 3 channels"),
        ("classifier/wrn28_10_keys", "robustbench_standard", "WRN-28-10 (RobustBench naming), 10 classes"),
        ("classifier/wrn28_10_keys", "robustbench_with_sub_block1", "WRN-28-10 (RobustBench naming), 10 classes"),
        ("classifier/wrn28_10_keys", "xternalz", "WRN-28-10 (RobustBench naming), 10 classes"),
        ("classifier/wrn28_10_keys", "addt_WRN", "WRN-28-10 (RobustBench naming), 10 classes"),
        ("classifier/wrn28_10_keys", "adp", "WRN-28-10 (ADP naming), 10 classes"),
        ("classifier/wrn28_10_keys", "addt_wide_resnet", "WRN-28-10 (ADP naming), 10 classes"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "score_model.network."])
def test_published_networks(golden, file, entry, expected, prefix):
    official = json.loads((golden / f"{file}.json").read_text())
    shapes = (official if entry is None else official[entry])["state_dict"]
    assert recognise({prefix + name: tensor for name, tensor in tensors(shapes).items()}) == expected


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (lambda: NCSNv2(ngf=6, channels=1, image_size=8), "NCSNv2 ngf 6, 1 channel"),
        (lambda: WideResNet(16, 2, num_classes=7), "WRN-16-2 (RobustBench naming), 7 classes"),
        (lambda: DenoisingAutoencoder(3, 5), "DenoisingAutoencoder width 5, 3 channels"),
        (lambda: MagNetAutoencoder(), "MagNetAutoencoder width 3, with pooling, 1 channel"),
        (lambda: MagNetAutoencoder(pooling=False), "MagNetAutoencoder width 3, without pooling, 1 channel"),
        (lambda: FFDNet(1, 8, 4), "FFDNet width 8, 4 convolutions, 1 channel"),
        (lambda: torch.nn.Sequential(torch.nn.Conv2d(5, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 3, 3)), "unknown"),
        (lambda: torch.nn.Linear(2, 2), "unknown"),
    ],
)
def test_networks_of_this_package(network, expected):
    assert recognise(network().state_dict()) == expected


def test_several_networks_in_one_file():
    score, classifier = NCSNv2(4, 1, 8).state_dict(), WideResNet(10, 1).state_dict()
    both = {f"score.{n}": t for n, t in score.items()} | {f"classifier.{n}": t for n, t in classifier.items()}
    assert recognise(both) == "NCSNv2 ngf 4, 1 channel and WRN-10-1 (RobustBench naming), 10 classes"


def test_a_resnet_is_not_taken_for_a_wide_one():
    names = ("conv1.weight", "layer1.0.conv1.weight", "linear.weight")
    shapes = {name: torch.ones(16, 16, 3, 3) for name in names}
    assert recognise(shapes) == "unknown"
    wide = shapes | {"layer1.0.conv1.bias": torch.ones(16)}
    assert recognise(wide) == "WRN-10-1 (ADP naming), 16 classes"
    assert recognise(wide | {"layer4.0.conv1.weight": torch.ones(1)}) == "unknown"


@pytest.mark.parametrize("anchor", ["begin_conv.weight", "all_modules.3.GroupNorm_0.weight", "map_layer0.weight",
                                    "down_blocks.0.resnets.0.conv1.weight", "block1.layer.0.conv1.weight",
                                    "layer1.0.conv1.weight", "down1.weight", "convs.0.weight", "conv2.weight",
                                    "layer.0.block.0.conv_0.weight", "input_blocks.0.0.weight"])  # fmt: skip
@pytest.mark.parametrize("shape", [(), (2,), (2, 0)])
def test_a_single_name_is_no_proof(anchor, shape):
    kind = recognise({anchor: torch.ones(shape)})
    assert kind == "unknown" or (anchor, shape) == ("begin_conv.weight", (2, 0))
