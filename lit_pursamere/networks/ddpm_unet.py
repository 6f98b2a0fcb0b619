"""DDPMUNet: the noise-predicting U-Net of Ho et al. (2020) under the parameter names of diffusers' UNet2DModel.

Reference: "Denoising Diffusion Probabilistic Models", NeurIPS 2020, appendix B.
The state dict of google/ddpm-cifar10-32 loads as it is, or after `OLD_ATTENTION_NAMES` if it is an old file. Arguments
are called as in diffusers' config.json; `unet2d_config` reads them from there.

    emb = mlp(sinusoids(timestep));  h = conv(x);  down: blocks with attention, strided conv;  block, attention, block
    up: blocks that take the skips and attend, double and conv;  out = conv(silu(norm(h)))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.fused_unet import norm_act
from lit_pursamere.networks.unet2d_config import FIXED
from lit_pursamere.networks.unet_parts import (
    LAST_GAIN,
    NORM_EPS,
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


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "mish": F.mish,
}


class Attention(nn.Module):
    """Attention in heads of `head` channels (None: one head of all)."""

    def __init__(
        self, channels: int, groups: int | None, head: int | None = None, eps: float = NORM_EPS, scale: float = 1.0
    ) -> None:
        super().__init__()
        if head is not None and (head < 1 or channels % head):
            raise ValueError(f"DDPMUNet cannot split {channels} channels into heads of attention_head_dim {head}")
        self.head, self.scale = head or channels, scale
        self.heads = channels // self.head
        self.group_norm = nn.Identity() if groups is None else group_norm(channels, groups, eps)
        self.to_q, self.to_k, self.to_v = (linear(channels, channels) for _ in range(3))
        self.to_out = nn.Sequential(linear(channels, channels, LAST_GAIN))

    def forward(self, x: Tensor) -> Tensor:
        h = self.group_norm(x).flatten(2).transpose(1, 2)
        h = self._joined(attend(*(self._heads(layer(h)) for layer in (self.to_q, self.to_k, self.to_v))), len(x))
        return (x + self.to_out(h).transpose(1, 2).reshape(x.shape)) * self.scale

    def _heads(self, h: Tensor) -> Tensor:
        """(B, N, C) to (B heads, N, C / heads)."""
        return h.unflatten(2, (self.heads, self.head)).transpose(1, 2).flatten(0, 1)

    def _joined(self, h: Tensor, images: int) -> Tensor:
        return h.unflatten(0, (images, self.heads)).transpose(1, 2).flatten(2)


class Downsample(nn.Module):
    """Convolve with stride 2; without `padding` from the first pixel on, padded right and below only."""

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.conv = glorot(nn.Conv2d(channels, channels, 3, stride=2))
        self.pad = (padding,) * 4 if padding else (0, 1, 0, 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.pad(h, self.pad))


class Upsample(nn.Module):
    """Repeat every pixel 2 x 2 times and convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.interpolate(h, scale_factor=2.0))


Block: TypeAlias = Callable[[int, int], nn.Module]
Attend: TypeAlias = Callable[[int], nn.Module]


class Level(nn.Module):
    """Residual blocks, each followed by attention or not; the network adds a layer that resamples."""

    def __init__(self, inputs: list[int], outputs: int, attention: list[bool], block: Block, attend: Attend) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([attend(outputs) if on else nn.Identity() for on in attention])
        self.resnets = nn.ModuleList([block(width, outputs) for width in inputs])

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
        attention_head_dim: Channels of an attention head; divides the widths that attend (None: one head).
        flip_sin_to_cos: Whether the time's cosines come before its sines.
        freq_shift: How the time's frequencies are spaced, see `unet_parts.sinusoidal_embedding`.
        downsample_padding: 1: halving convolutions pad all four sides; 0: right and below only.
        norm_eps: Added to the variances of the normalisations, above 0.
        act_fn: Nonlinearity of the residual blocks: silu (or swish), relu, gelu or mish.
        resnet_time_scale_shift: `default`: the time is added in a block; `scale_shift`: it scales and shifts what the
            second normalisation gives.
        mid_block_scale_factor: What the sums of both branches in the middle are divided by, above 0.
        add_attention: Whether the middle attends.
        learn_sigma: Whether the output has as many channels again, which interpolate the variance of a step.

    Raises:
        ValueError: If the widths, the groups, the sizes or the dropout make no sense, or a word is unknown.

    Reference: Ho et al. (2020), appendix B, CIFAR-10. 35,746,307 parameters. Defaults are this network's; those of
    diffusers are others, see `unet2d_config`.
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
        attention_head_dim: int | None = None,
        flip_sin_to_cos: bool = False,
        freq_shift: float = 1,
        downsample_padding: Literal[0, 1] = 0,
        norm_eps: float = NORM_EPS,
        act_fn: Literal["silu", "swish", "relu", "gelu", "mish"] = "silu",
        resnet_time_scale_shift: Literal["default", "scale_shift"] = "default",
        mid_block_scale_factor: float = 1,
        add_attention: bool = True,
        learn_sigma: bool = False,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        check_unet("DDPMUNet", widths, layers_per_block, channels, image_size, dropout)
        if len(attention) != len(widths):
            raise ValueError(f"DDPMUNet has {len(widths)} levels but attention has {len(attention)} entries")
        self.settings = {
            **FIXED, "norm_num_groups": norm_num_groups, "attention_head_dim": attention_head_dim,
            "flip_sin_to_cos": flip_sin_to_cos, "freq_shift": freq_shift, "downsample_padding": downsample_padding,
            "norm_eps": norm_eps, "act_fn": act_fn, "resnet_time_scale_shift": resnet_time_scale_shift,
            "mid_block_scale_factor": mid_block_scale_factor, "add_attention": add_attention,
        }  # fmt: skip
        check_settings(self.settings, widths[0])
        self.channels, self.image_size, self.width = channels, image_size, widths[0]
        self.freq_shift, self.flip_sin_to_cos = freq_shift, flip_sin_to_cos
        scale_shift = resnet_time_scale_shift == "scale_shift"
        embedding = 4 * self.width
        self.conv_in = conv(channels, self.width)
        mlp = {"linear_1": linear(self.width, embedding), "linear_2": linear(embedding, embedding)}
        self.time_embedding = nn.ModuleDict(mlp)
        self.act, middle = ACTIVATIONS[act_fn], 1 / mid_block_scale_factor
        block = partial(
            ResidualBlock, NAMES, embedding=embedding, dropout=dropout, groups=norm_num_groups, eps=norm_eps,
            activation=self.act, scale_shift=scale_shift,
        )  # fmt: skip
        attends = partial(Attention, head=attention_head_dim, eps=norm_eps)
        self.down_blocks: Any = nn.ModuleList()
        self.up_blocks: Any = nn.ModuleList()
        self._build(widths, attention, layers_per_block, block, partial(attends, groups=norm_num_groups))
        # Where the time scales and shifts, the attention of the middle has no normalisation.
        attends = partial(attends, groups=None if scale_shift else norm_num_groups, scale=middle)
        block = partial(block, scale=middle)
        self.mid_block = Level([widths[-1]] * 2, widths[-1], [add_attention, False], block, attends)
        self.conv_norm_out = group_norm(self.width, norm_num_groups, norm_eps)
        self.conv_out = conv(self.width, channels * (1 + learn_sigma), gain=LAST_GAIN)

    def _build(self, widths: list[int], attention: Sequence[bool], blocks: int, block: Block, attend: Attend) -> None:
        width, skips = self.width, [self.width]
        for i, outputs in enumerate(widths):
            level = Level([width] + [outputs] * (blocks - 1), outputs, [attention[i]] * blocks, block, attend)
            halve = i < len(widths) - 1
            padding = self.settings["downsample_padding"]
            level.downsamplers = nn.ModuleList([Downsample(outputs, padding)] if halve else [])
            self.down_blocks.append(level)
            width, skips = outputs, skips + [outputs] * (blocks + halve)
        for i, outputs in reversed(list(enumerate(widths))):
            inputs = [before + skips.pop() for before in [width] + [outputs] * blocks]
            level = Level(inputs, outputs, [attention[i]] * (blocks + 1), block, attend)
            level.upsamplers = nn.ModuleList([Upsample(outputs)] if i > 0 else [])
            self.up_blocks.append(level)
            width = outputs

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        """Estimate the noise in centred states x (B, C, H, W) at timesteps (B,) in [0, 999].

        Returns:
            Noise (B, C, H, W); with `learn_sigma` (B, 2 C, H, W), see `GuidedUNet.forward`.
        """
        emb = sinusoidal_embedding(timestep, self.width, x.dtype, self.freq_shift, self.flip_sin_to_cos)
        first, last = self.time_embedding.values()
        emb = self.act(last(F.silu(first(emb))))
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
        return self.conv_out(norm_act(h, self.conv_norm_out, F.silu)[1])


def check_settings(settings: Mapping[str, Any], width: int) -> None:
    """Reject what no UNet2DModel can be told."""
    words = {"act_fn": ACTIVATIONS, "resnet_time_scale_shift": ("default", "scale_shift"), "downsample_padding": (0, 1)}
    for name, known in words.items():
        if settings[name] not in known:
            raise ValueError(f"DDPMUNet needs {name} {' or '.join(map(str, known))}; got {settings[name]!r}")
    for name in ("norm_eps", "mid_block_scale_factor"):
        if not settings[name] > 0:
            raise ValueError(f"DDPMUNet needs {name} above 0; got {settings[name]}")
    if not 0 <= settings["freq_shift"] < width // 2:
        raise ValueError(f"DDPMUNet needs freq_shift in [0, {width // 2}); got {settings['freq_shift']}")
