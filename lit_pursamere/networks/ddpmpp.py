"""DDPM++: the noise-predicting U-Net of Song et al. (2021) for the variance preserving process, which DiffPure uses.

Reference: "Score-Based Generative Modeling through Stochastic Differential Equations", ICLR 2021, appendix H.
Parameter names and their order equal those of the released checkpoints (whose averaged weights are a bare list).

    emb = mlp(sinusoids(labels));  h = conv(x);  down: blocks, attention at some sizes, halve;  block, attention, block
    up: blocks that take the skips, attention, double;  out = conv(silu(norm(h)))
"""

from __future__ import annotations

from collections.abc import Sequence

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
    group_norm,
    level_widths,
    linear,
    sinusoidal_embedding,
)

__all__ = ["DDPMpp"]

NAMES = ("GroupNorm_0", "Conv_0", "Dense_0", "GroupNorm_1", "Conv_1", "Conv_2")


class NIN(nn.Module):
    """Linear map of the channels at every pixel, (B, N, C) to the same shape."""

    def __init__(self, channels: int, gain: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.empty(channels, channels))
        self.b = nn.Parameter(torch.zeros(channels))
        nn.init.xavier_uniform_(self.W, gain)

    def forward(self, h: Tensor) -> Tensor:
        return h @ self.W + self.b


class AttentionBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2 = (NIN(channels, 0.1**0.5) for _ in range(3))
        self.NIN_3 = NIN(channels, LAST_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        h = self.GroupNorm_0(x).flatten(2).transpose(1, 2)
        h = self.NIN_3(attend(self.NIN_0(h), self.NIN_1(h), self.NIN_2(h)))
        return (x + h.transpose(1, 2).reshape(x.shape)) * 0.5**0.5


class DDPMpp(nn.Module):
    """Noise-predicting U-Net with residual blocks that resample (BigGAN's) and skips rescaled by 1/sqrt(2).

    Args:
        nf: Channels of the first level, a multiple of 4.
        ch_mult: Width of every level in units of `nf`; each level after the first halves the image.
        num_res_blocks: Residual blocks a level (paper: 8 for the deep network).
        attn_resolutions: Image sizes in pixels at which the levels attend; the middle always does.
        channels: Image channels.
        image_size: Height and width of the images in pixels; a multiple of 2^(levels - 1).
        dropout: Probability in [0, 1) of dropping an activation inside a block, in training only.

    Raises:
        ValueError: If the widths, the sizes or the dropout make no sense.

    Reference: Song et al. (2021), appendix H, "DDPM++ cont. (deep, VP)". 106,632,579 parameters.
    """

    def __init__(
        self,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 2, 2, 2),
        num_res_blocks: int = 8,
        attn_resolutions: Sequence[int] = (16,),
        channels: int = 3,
        image_size: int = 32,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        widths = level_widths("DDPMpp", nf, ch_mult)
        check_unet("DDPMpp", widths, num_res_blocks, channels, image_size, dropout)
        self.nf, self.channels, self.image_size = nf, channels, image_size
        self.levels, self.blocks = len(widths), num_res_blocks
        self.attended = [image_size >> level in attn_resolutions for level in range(self.levels)]
        self.all_modules = nn.ModuleList()
        self._build(widths, dropout)

    def _build(self, widths: list[int], dropout: float) -> None:
        add, embedding = self.all_modules.append, 4 * self.nf

        def block(inputs: int, outputs: int, resample: nn.Module | None = None) -> ResidualBlock:
            return ResidualBlock(NAMES, inputs, outputs, embedding, dropout, resample=resample, scale=0.5**0.5)

        add(linear(self.nf, embedding))
        add(linear(embedding, embedding))
        add(conv(self.channels, self.nf))
        width, skips = self.nf, [self.nf]
        for level, outputs in enumerate(widths):
            for _ in range(self.blocks):
                add(block(width, outputs))
                width = outputs
                if self.attended[level]:
                    add(AttentionBlock(width))
                skips.append(width)
            if level < self.levels - 1:
                add(block(width, width, nn.AvgPool2d(2)))
                skips.append(width)
        add(block(width, width))
        add(AttentionBlock(width))
        add(block(width, width))
        for level, outputs in reversed(list(enumerate(widths))):
            for _ in range(self.blocks + 1):
                add(block(width + skips.pop(), outputs))
                width = outputs
            if self.attended[level]:
                add(AttentionBlock(width))
            if level > 0:
                add(block(width, width, nn.Upsample(scale_factor=2)))
        add(group_norm(width))
        add(conv(width, self.channels, gain=LAST_GAIN))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Estimate the noise in centred states x (B, C, H, W) at labels (B,) = 999 t, t in [0, 1]; same shape as x."""
        layers = iter(self.all_modules)
        emb = sinusoidal_embedding(labels, self.nf, x.dtype)
        emb = F.silu(next(layers)(emb))
        emb = F.silu(next(layers)(emb))
        h = next(layers)(x)
        skips = [h]
        for level in range(self.levels):
            for _ in range(self.blocks):
                h = next(layers)(h, emb)
                if self.attended[level]:
                    h = next(layers)(h)
                skips.append(h)
            if level < self.levels - 1:
                h = next(layers)(h, emb)
                skips.append(h)
        h = next(layers)(h, emb)
        h = next(layers)(h)
        h = next(layers)(h, emb)
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                h = next(layers)(torch.cat([h, skips.pop()], dim=1), emb)
            if self.attended[level]:
                h = next(layers)(h)
            if level > 0:
                h = next(layers)(h, emb)
        _, h = norm_act(h, next(layers), F.silu)
        return next(layers)(h)
