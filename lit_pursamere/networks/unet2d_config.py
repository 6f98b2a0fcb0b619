"""What diffusers' config.json says of a UNet2DModel, as arguments of `DDPMUNet`; what that has no way of is refused.

Reference: the constructor of UNet2DModel in diffusers, whose defaults hold where a file leaves a setting out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["FIXED", "unet_arguments"]

DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("UpBlock2D", "AttnUpBlock2D")

# What UNet2DModel can be told and this network has one way of.
FIXED: dict[str, Any] = {
    "time_embedding_type": "positional", "center_input_sample": False, "downsample_type": "conv",
    "upsample_type": "conv", "class_embed_type": None, "num_class_embeds": None, "attn_norm_num_groups": None,
    "attention_legacy_order": False, "mid_block_type": "UNetMidBlock2D", "time_embedding_dim": None,
}  # fmt: skip
# What it can be told and this network has as well, with the value that a config.json means by leaving it out.
TOLD: dict[str, Any] = {
    "block_out_channels": (224, 448, 672, 896), "layers_per_block": 2, "norm_num_groups": 32, "dropout": 0.0,
    "attention_head_dim": 8, "flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1, "norm_eps": 1e-5,
    "act_fn": "silu", "resnet_time_scale_shift": "default", "mid_block_scale_factor": 1, "add_attention": True,
}  # fmt: skip


WORDS = ("down_block_types", "up_block_types", "act_fn", "resnet_time_scale_shift")
REALS = ("dropout", "freq_shift", "norm_eps", "mid_block_scale_factor")
MOST_LAYERS, MOST_LEVELS = 100, 16  # far beyond any that was trained


def check_kinds(config: Mapping[str, Any]) -> None:
    """Refuse values that are no numbers where numbers belong, no texts where texts do, and endless networks."""
    for name in (*TOLD, *WORDS, "in_channels", "out_channels", "sample_size"):
        value = config.get(name)
        parts = value if isinstance(value, list) else [] if value is None else [value]
        kind: Any = str if name in WORDS else int | float if name in REALS else int
        layers = parts[0] if name == "layers_per_block" and parts else 1
        if not all(isinstance(part, kind) for part in parts) or len(parts) > MOST_LEVELS or layers > MOST_LAYERS:
            raise ValueError(f"config.json holds {name} {value!r}, which is no such setting")


def unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the `DDPMUNet` that diffusers' config.json describes.

    Args:
        config: What the file holds.

    Raises:
        ValueError: If it is of another class, or asks for what this network does not have; all of it is named.
    """
    check_kinds(config)
    kind = config.get("_class_name", "UNet2DModel")
    other = [] if kind == "UNet2DModel" else [f"_class_name {kind}"]
    other += [f"{name} {config[name]}" for name, ours in FIXED.items() if config.get(name, ours) != ours]
    down = config.get("down_block_types", [DOWN[0], *[DOWN[1]] * 3])
    up = config.get("up_block_types", [*[UP[1]] * 3, UP[0]])
    other += [f"the block {block}" for block in dict.fromkeys([*down, *up]) if block not in (*DOWN, *UP)]
    attention = [block == DOWN[1] for block in down]
    if not other and attention[::-1] != [block == UP[1] for block in up]:
        other = [f"attention on other levels up ({', '.join(up)}) than down ({', '.join(down)})"]
    channels, size = config.get("in_channels", 3), config.get("sample_size")
    outputs = config.get("out_channels", 3)
    if outputs not in (channels, 2 * channels):
        other.append(f"in_channels {channels} and out_channels {outputs}")
    if other:
        raise ValueError(f"DDPMUNet has no way of {'; '.join(other)}, for which config.json asks; take another network")
    told = {name: config.get(name, left_out) for name, left_out in TOLD.items()}
    size = {} if size is None else {"image_size": size[0] if isinstance(size, list | tuple) else size}
    return told | size | {"attention": attention, "channels": channels, "learn_sigma": outputs != channels}
