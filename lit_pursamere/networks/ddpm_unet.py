"""DDPMUNet: the noise-predicting U-Net of Ho et al. (2020) under the parameter names of diffusers' UNet2DModel.

Reference: "Denoising Diffusion Probabilistic Models", NeurIPS 2020, appendix B.
The state dict of google/ddpm-cifar10-32 loads as it is, or after `OLD_ATTENTION_NAMES` if it is an old file.

    emb = mlp(sinusoids(timestep));  h = conv(x);  down: blocks with attention, strided conv;  block, attention, block
    up: blocks that take the skips and attend, double and conv;  out = conv(silu(norm(h)))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.unet_parts import (
    LAST_GAIN,
    ResidualBlock,
    attend,
    check_unet,
    conv,
    glorot,
    group_norm,
    linear,
    sinusoidal_embedding,
)

__all__ = ["OLD_ATTENTION_NAMES", "DDPMUNet"]

NAMES = ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut")

# Files written before diffusers 0.17 call the attention layers differently: old component of a name -> ours.
OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


# What UNet2DModel can be told and this network has one way of; its own defaults are others.
SETTINGS = {
    "attention_head_dim": None, "flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "norm_eps": 1e-6,
    "act_fn": "silu", "time_embedding_type": "positional", "resnet_time_scale_shift": "default",
    "mid_block_scale_factor": 1, "center_input_sample": False, "downsample_type": "conv", "upsample_type": "conv",
    "class_embed_type": None,
}  # fmt: skip


class Attention(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = group_norm(channels, groups)
        self.to_q, self.to_k, self.to_v = (linear(channels, channels) for _ in range(3))
        self.to_out = nn.Sequential(linear(channels, channels, LAST_GAIN))

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        h = self.to_out(attend(self.to_q(h), self.to_k(h), self.to_v(h)))
        return x + h.transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """Convolve with stride 2 from the first pixel on: padding right and below only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = glorot(nn.Conv2d(channels, channels, 3, stride=2))

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.pad(h, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Repeat every pixel 2 x 2 times and convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.interpolate(h, scale_factor=2.0))


class Level(nn.Module):
    """Residual blocks, each followed by attention or not; the network adds a layer that resamples."""

    def __init__(
        self, inputs: list[int], outputs: int, attention: list[bool], embedding: int, dropout: float, groups: int
    ) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(outputs, groups) if on else nn.Identity() for on in attention])
        blocks = [ResidualBlock(NAMES, width, outputs, embedding, dropout, groups) for width in inputs]
        self.resnets = nn.ModuleList(blocks)

    def pairs(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        return zip(self.resnets, self.attentions, strict=True)


class DDPMUNet(nn.Module):
    """Noise-predicting U-Net of DDPM: (centred state, timestep) to the noise in it.

    Args:
        block_out_channels: Channels of every level; each level after the first halves the image.
        attention: Whether a level attends, one entry a level; the middle always does.
        layers_per_block: Residual blocks a level (one more on the way up).
        norm_num_groups: Groups of every group norm; divides all channels.
        channels: Image channels.
        image_size: Height and width of the images in pixels; a multiple of 2^(levels - 1).
        dropout: Probability in [0, 1) of dropping an activation inside a block, in training only (paper: 0.1).

    Raises:
        ValueError: If the widths, the groups, the sizes or the dropout make no sense.

    Reference: Ho et al. (2020), appendix B, CIFAR-10. 35,746,307 parameters.
    """

    def __init__(
        self,
        block_out_channels: Sequence[int] = (128, 256, 256, 256),
        attention: Sequence[bool] = (False, True, False, False),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        channels: int = 3,
        image_size: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        check_unet("DDPMUNet", widths, layers_per_block, channels, image_size, dropout)
        if len(attention) != len(widths):
            raise ValueError(f"DDPMUNet has {len(widths)} levels but attention has {len(attention)} entries")
        self.channels, self.image_size, self.width = channels, image_size, widths[0]
        self.settings = {**SETTINGS, "norm_num_groups": norm_num_groups}
        embedding = 4 * self.width
        self.conv_in = conv(channels, self.width)
        mlp = {"linear_1": linear(self.width, embedding), "linear_2": linear(embedding, embedding)}
        self.time_embedding = nn.ModuleDict(mlp)
        self.down_blocks: Any = nn.ModuleList()
        self.up_blocks: Any = nn.ModuleList()
        settings = (embedding, dropout, norm_num_groups)
        self._build(widths, attention, layers_per_block, settings)
        self.mid_block = Level([widths[-1]] * 2, widths[-1], [True, False], *settings)
        self.conv_norm_out = group_norm(self.width, norm_num_groups)
        self.conv_out = conv(self.width, channels, gain=LAST_GAIN)

    def _build(self, widths: list[int], attention: Sequence[bool], blocks: int, settings: tuple) -> None:
        width, skips = self.width, [self.width]
        for i, outputs in enumerate(widths):
            level = Level([width] + [outputs] * (blocks - 1), outputs, [attention[i]] * blocks, *settings)
            halve = i < len(widths) - 1
            level.downsamplers = nn.ModuleList([Downsample(outputs)] if halve else [])
            self.down_blocks.append(level)
            width, skips = outputs, skips + [outputs] * (blocks + halve)
        for i, outputs in reversed(list(enumerate(widths))):
            inputs = [before + skips.pop() for before in [width] + [outputs] * blocks]
            level = Level(inputs, outputs, [attention[i]] * (blocks + 1), *settings)
            level.upsamplers = nn.ModuleList([Upsample(outputs)] if i > 0 else [])
            self.up_blocks.append(level)
            width = outputs

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Estimate the noise in centred states x (B, C, H, W) at timesteps (B,) in [0, 999]; same shape as x."""
        emb = sinusoidal_embedding(timestep, self.width, x.dtype)
        for layer in self.time_embedding.values():
            emb = F.silu(layer(emb))
        h = self.conv_in(x)
        skips = [h]
        for level in self.down_blocks:
            for block, attention in level.pairs():
                h = attention(block(h, emb))
                skips.append(h)
            for downsample in level.downsamplers:
                h = downsample(h)
                skips.append(h)
        for block, attention in self.mid_block.pairs():
            h = attention(block(h, emb))
        for level in self.up_blocks:
            for block, attention in level.pairs():
                h = attention(block(torch.cat([h, skips.pop()], dim=1), emb))
            for upsample in level.upsamplers:
                h = upsample(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))
