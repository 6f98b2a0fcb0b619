"""SongUNet: the U-Net of DDPM++ as EDM (Karras et al., 2022) reorganised it, without its preconditioning.

Reference: "Elucidating the Design Space of Diffusion-Based Generative Models", NeurIPS 2022, appendix F.
Parameter names equal those of the released checkpoints without their leading `model.`.

    emb = mlp(sinusoids(noise_labels));  encoder: conv, blocks (attention inside), halving blocks
    decoder: two blocks, blocks that take the skips, doubling blocks;  out = conv(silu(norm(h)))
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

__all__ = ["SongUNet"]

NAMES = ("norm0", "conv0", "affine", "norm1", "conv1", "skip")


class UNetBlock(ResidualBlock):
    """Residual block that may end in self-attention over its pixels."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        attention: bool = False,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__(NAMES, inputs, outputs, embedding, dropout, resample=resample, scale=0.5**0.5)
        self.attention = attention
        if attention:
            self.norm2 = group_norm(outputs)
            self.qkv = conv(outputs, 3 * outputs, kernel=1, gain=0.2**0.5)
            self.proj = conv(outputs, outputs, kernel=1, gain=LAST_GAIN)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = super().forward(x, emb)
        if not self.attention:
            return x
        # The release interleaves: channel 3 c + j of qkv is channel c of q, k or v.
        q, k, v = self.qkv(self.norm2(x)).flatten(2).unflatten(1, (-1, 3)).permute(2, 0, 3, 1)
        h = attend(q, k, v).transpose(1, 2).reshape(x.shape)
        return (x + self.proj(h)) * self.scale


class SongUNet(nn.Module):
    """U-Net of EDM in its `ddpmpp` configuration: (scaled image, noise label) to the raw network output.

    Args:
        model_channels: Base width, a multiple of 4.
        channel_mult: Width of every level in units of `model_channels`; each level after the first halves the image.
        num_blocks: Residual blocks a level.
        attn_resolutions: Image sizes in pixels at which the levels attend; the middle always does.
        channels: Image channels.
        image_size: Height and width of the images in pixels; a multiple of 2^(levels - 1).
        augment_dim: Length of the augmentation label the released networks were trained with (0: none).
            This network always sees the label of an unaugmented image, all zeros.
        dropout: Probability in [0, 1) of dropping an activation inside a block, in training only.

    Raises:
        ValueError: If the widths, the sizes, `augment_dim` or the dropout make no sense.

    Reference: Karras et al. (2022), appendix F, the DDPM++ network of CIFAR-10. 55,733,891 parameters.
    """

    def __init__(
        self,
        model_channels: int = 128,
        channel_mult: Sequence[int] = (2, 2, 2),
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        channels: int = 3,
        image_size: int = 32,
        augment_dim: int = 9,
        dropout: float = 0.13,
    ) -> None:
        super().__init__()
        widths = level_widths("SongUNet", model_channels, channel_mult)
        check_unet("SongUNet", widths, num_blocks, channels, image_size, dropout)
        if augment_dim < 0:
            raise ValueError(f"SongUNet needs an augment_dim of at least 0; got {augment_dim}")
        self.model_channels, self.channels, self.image_size = model_channels, channels, image_size
        self.augment_dim, embedding = augment_dim, 4 * model_channels
        if augment_dim:
            self.map_augment = linear(augment_dim, model_channels, bias=False)
        self.map_layer0 = linear(model_channels, embedding)
        self.map_layer1 = linear(embedding, embedding)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        self._build(widths, num_blocks, attn_resolutions, dropout)

    def _build(self, widths: list[int], blocks: int, attn_resolutions: Sequence[int], dropout: float) -> None:
        def block(inputs: int, outputs: int, attention: bool = False, resample: nn.Module | None = None) -> UNetBlock:
            return UNetBlock(inputs, outputs, 4 * self.model_channels, dropout, attention, resample)

        width = self.model_channels
        sizes = [self.image_size >> level for level in range(len(widths))]
        names = [f"{size}x{size}" for size in sizes]
        self.enc[f"{names[0]}_conv"] = conv(self.channels, width)
        skips = [width]
        for level, outputs in enumerate(widths):
            if level > 0:
                self.enc[f"{names[level]}_down"] = block(width, width, resample=nn.AvgPool2d(2))
                skips.append(width)
            for i in range(blocks):
                self.enc[f"{names[level]}_block{i}"] = block(width, outputs, sizes[level] in attn_resolutions)
                width = outputs
                skips.append(width)
        self.dec[f"{names[-1]}_in0"] = block(width, width, attention=True)
        self.dec[f"{names[-1]}_in1"] = block(width, width)
        for level, outputs in reversed(list(enumerate(widths))):
            if level < len(widths) - 1:
                self.dec[f"{names[level]}_up"] = block(width, width, resample=nn.Upsample(scale_factor=2))
            for i in range(blocks + 1):
                attention = i == blocks and sizes[level] in attn_resolutions
                self.dec[f"{names[level]}_block{i}"] = block(width + skips.pop(), outputs, attention)
                width = outputs
        self.dec[f"{names[0]}_aux_norm"] = group_norm(width)
        self.dec[f"{names[0]}_aux_conv"] = conv(width, self.channels, gain=LAST_GAIN)

    def forward(self, x: Tensor, noise_labels: Tensor) -> Tensor:
        """Map scaled images (B, C, H, W) and noise labels (B,), any reals, to an array of the images' shape."""
        emb = sinusoidal_embedding(noise_labels, self.model_channels, x.dtype)
        if self.augment_dim:
            # Adds exactly 0, but keeps the parameter in the graph, where distributed training looks for it.
            emb = emb + self.map_augment(emb.new_zeros(len(emb), self.augment_dim))
        emb = F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
        first, *encoder = self.enc.values()
        h = first(x)
        skips = [h]
        for layer in encoder:
            h = layer(h, emb)
            skips.append(h)
        *decoder, (_, norm), (_, last) = self.dec.items()
        for name, layer in decoder:
            h = layer(torch.cat([h, skips.pop()], dim=1) if "block" in name else h, emb)
        return last(norm_act(h, norm, F.silu)[1])
