"""Folders as diffusers saves them, and the names that its attention layers had before."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lit_pursamere.weights import inspect_weights, read_weights, sha256


@pytest.fixture
def folder(tmp_path, unet):
    def write(
        where=".", name="diffusion_pytorch_model.bin", config='{"_class_name": "UNet2DModel", "sample_size": 32}'
    ):
        place = tmp_path / "ddpm" / where
        place.mkdir(parents=True)
        (place / "config.json").write_text(config)
        (save_file if name.endswith(".safetensors") else torch.save)(unet, place / name)
        return place / name

    return write


@pytest.mark.parametrize("where", [".", "unet"])
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"])
def test_diffusers_folder(tmp_path, folder, unet, where, name):
    file = folder(where, name)
    found = inspect_weights(tmp_path / "ddpm")
    assert found.path == file and found.sha256 == sha256(file)
    assert found.layout == "diffusers folder (UNet2DModel), old attention names"
    assert found.architecture == "UNet2DModel 8-16, 1 layer per block, 3 channels"
    assert (found.metadata["class"], found.metadata["sample_size"]) == ("UNet2DModel", "32")
    for old, new in (("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")):
        layer = "down_blocks.1.attentions.0"
        assert torch.equal(found.tensors[f"{layer}.{new}.weight"], unet[f"{layer}.{old}.weight"])
        assert f"{layer}.{old}.weight" not in found.tensors
    assert torch.equal(
        found.tensors["down_blocks.1.attentions.0.to_q.bias"], unet["down_blocks.1.attentions.0.query.bias"]
    )
    assert len(found.tensors) == len(unet)


def test_names_like_those_of_old_attention_are_kept_elsewhere(tmp_path, unet, same):
    del unet["down_blocks.1.attentions.0.group_norm.weight"]
    unet |= {"transformer.query.weight": torch.ones(1), "transformer.group_norm.weight": torch.ones(1)}
    torch.save(unet, tmp_path / "w")
    assert same(read_weights(tmp_path / "w"), unet)
    assert inspect_weights(tmp_path / "w").layout == "plain state dict"


def test_present_attention_names_are_kept(golden, tmp_path):
    official = json.loads((golden / "diffusers_ddpm/keys_official.json").read_text())
    old = official["old_attention_names"]
    tensors = {old.get(name, name): torch.ones(1) for name in official["state_dict"]}
    torch.save(tensors, tmp_path / "old")
    torch.save({name: torch.ones(1) for name in official["state_dict"]}, tmp_path / "new")
    assert set(old.values()) <= set(tensors)
    assert set(read_weights(tmp_path / "old")) == set(read_weights(tmp_path / "new")) == set(official["state_dict"])
