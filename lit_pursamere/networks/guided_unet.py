"""GuidedUNet: the U-Net of Dhariwal & Nichol (2021), which DiffPure and GDMP purify ImageNet with at 256 pixels.

Reference: "Diffusion Models Beat GANs on Image Synthesis", NeurIPS 2021, section 3; without classes. Parameter names
and their order are those of the released checkpoints, the defaults those of `256x256_diffusion_uncond.pt`.

    emb = mlp(sinusoids(timesteps));  h = conv(x);  down: blocks, attention at some sizes, halve
    block, attention, block
    up: blocks that take the skips, attention, double;  out = conv(silu(norm(h)))        (noise, and v of the variance)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.fused_unet import norm_act
from lit_pursamere.networks.unet_parts import (
    LAST_GAIN,
    ResidualBlock,
    attend,
    check_unet,
    conv,
    glorot,
    group_norm,
    level_widths,
    linear,
    sinusoidal_embedding,
)

__all__ = ["GuidedUNet"]

NAMES = ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection")
GROUPS, EPS = 32, 1e-5


class AttentionBlock(nn.Module):
    """Attention in heads; query, key and value of a head lie beside each other."""

    def __init__(self, channels: int, head_channels: int, groups: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.norm = group_norm(channels, groups, EPS)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        for layer, gain in ((self.qkv, 1.0), (self.proj_out, LAST_GAIN)):
            nn.init.xavier_uniform_(layer.weight, gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.qkv(self.norm(x).flatten(2))
        q, k, v = h.unflatten(1, (self.heads, -1)).flatten(0, 1).transpose(1, 2).chunk(3, dim=2)
        h = attend(q, k, v).transpose(1, 2).unflatten(0, (len(x), self.heads)).flatten(1, 2)
        return x + self.proj_out(h).reshape(x.shape)


class First(nn.Conv2d):
    """The convolution before all blocks, which has no use for the time."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class GuidedUNet(nn.Module):
    """Noise-predicting U-Net whose blocks resample and are scaled and shifted by the time, with attention in heads.

    Args:
        model_channels: Channels of the first level, a multiple of `norm_num_groups`.
        channel_mult: Width of every level in units of `model_channels`; each level after the first halves the image.
        num_res_blocks: Residual blocks a level (one more on the way up).
        attention_resolutions: Image sizes in pixels at which the levels attend; the middle always does.
        num_head_channels: Channels of an attention head; divides the widths that attend.
        channels: Image channels.
        image_size: Height and width of the images in pixels; a multiple of 2^(levels - 1).
        learn_sigma: Whether the output has as many channels again, which interpolate the variance of a step.
        dropout: Probability in [0, 1) of dropping an activation inside a block, in training only.
        norm_num_groups: Groups of every group norm.

    Raises:
        ValueError: If the widths, the heads, the sizes or the dropout make no sense.

    Reference: Dhariwal & Nichol (2021), ImageNet at 256 pixels, unconditional. 552,814,086 parameters.
    """

    def __init__(
        self,
        model_channels: int = 256,
        channel_mult: Sequence[int] = (1, 1, 2, 2, 4, 4),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (32, 16, 8),
        num_head_channels: int = 64,
        channels: int = 3,
        image_size: int = 256,
        learn_sigma: bool = True,
        dropout: float = 0.0,
        norm_num_groups: int = GROUPS,
    ) -> None:
        super().__init__()
        widths = level_widths("GuidedUNet", model_channels, channel_mult)
        check_unet("GuidedUNet", widths, num_res_blocks, channels, image_size, dropout)
        self.width, self.channels, self.image_size = model_channels, channels, image_size
        attended = [image_size >> level in attention_resolutions for level in range(len(widths))]
        heads = [*(width for width, on in zip(widths, attended, strict=True) if on), widths[-1]]
        if num_head_channels < 1 or any(width % num_head_channels for width in heads):
            raise ValueError(
                f"GuidedUNet attends with {sorted(set(heads))} channels, which heads of {num_head_channels} do not "
                "divide; set num_head_channels"
            )
        embedding = 4 * model_channels
        self.time_embed = nn.ModuleDict({"0": linear(model_channels, embedding), "2": linear(embedding, embedding)})
        self.block = partial(
            ResidualBlock, NAMES, embedding=embedding, dropout=dropout, groups=norm_num_groups, project=False,
            scale_shift=True, eps=EPS,
        )  # fmt: skip
        self.attention = partial(AttentionBlock, head_channels=num_head_channels, groups=norm_num_groups)
        self._build(widths, attended, num_res_blocks)
        out = group_norm(model_channels, norm_num_groups, EPS)
        last = conv(model_channels, channels * (1 + learn_sigma), gain=LAST_GAIN)
        self.out = nn.ModuleDict({"0": out, "2": last})

    def _build(self, widths: list[int], attended: list[bool], blocks: int) -> None:
        first = glorot(First(self.channels, self.width, 3, padding=1))
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        width, skips = self.width, [self.width]
        for level, outputs in enumerate(widths):
            for _ in range(blocks):
                self.input_blocks.append(self._parts(width, outputs, attended[level]))
                width = outputs
                skips.append(width)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([self.block(width, width, resample=nn.AvgPool2d(2))]))
                skips.append(width)
        self.middle_block = nn.ModuleList([*self._parts(width, width, True), self.block(width, width)])
        self.output_blocks = nn.ModuleList()
        for level, outputs in reversed(list(enumerate(widths))):
            for number in range(blocks + 1):
                parts = self._parts(width + skips.pop(), outputs, attended[level])
                width = outputs
                if level > 0 and number == blocks:
                    parts.append(self.block(width, width, resample=nn.Upsample(scale_factor=2)))
                self.output_blocks.append(parts)

    def _parts(self, inputs: int, outputs: int, attends: bool) -> nn.ModuleList:
        return nn.ModuleList([self.block(inputs, outputs), *([self.attention(outputs)] if attends else [])])

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        """Estimate the noise in centred states.

        Args:
            x: States (B, C, H, W).
            timesteps: Times (B,) in [0, 999]; fractions are as good as integers.

        Returns:
            Noise (B, C, H, W); with `learn_sigma` (B, 2 C, H, W), the noise first and then v, which interpolates
            between the smallest variance of a step (-1) and the largest (1).
        """
        emb = sinusoidal_embedding(timesteps, self.width, x.dtype, shift=0, cosine_first=True)
        for layer in self.time_embed.values():
            emb = F.silu(layer(emb))
        h, skips = x, []
        for parts in self.input_blocks:
            h = through(parts, h, emb)
            skips.append(h)
        h = through(self.middle_block, h, emb)
        for parts in self.output_blocks:
            h = through(parts, torch.cat([h, skips.pop()], dim=1), emb)
        return self.out["2"](norm_act(h, self.out["0"], F.silu)[1])


def through(parts: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    """Apply one part after the other."""
    for part in parts.children():
        h = part(h, emb)
    return h
