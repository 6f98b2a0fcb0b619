"""What the four diffusion U-Nets share: one residual block under four sets of names, attention, time embedding.

References: Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020, appendix B (the block and its
initialisation); Vaswani et al., "Attention Is All You Need", NeurIPS 2017 (attention, sinusoidal embedding).

    h = conv(resample(silu(norm(x)))) + linear(emb);  h = conv(dropout(silu(norm(h))))
    or  a, b = linear(emb);                           h = conv(dropout(silu(norm(h) * (1 + a) + b)))
    x = scale * (shortcut(resample(x)) + h)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.fused_unet import norm_act

__all__ = [
    "LAST_GAIN",
    "NORM_EPS",
    "ResidualBlock",
    "attend",
    "check_unet",
    "conv",
    "glorot",
    "group_norm",
    "level_widths",
    "linear",
    "sinusoidal_embedding",
]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)

LAST_GAIN = 1e-5  # of the layer that ends a residual branch: a new network starts as a chain of its shortcuts
NORM_EPS = 1e-6


def glorot(layer: Layer, gain: float = 1.0) -> Layer:
    """Draw the weight from Glorot's uniform distribution times `gain`; the bias starts at zero."""
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def conv(inputs: int, outputs: int, kernel: int = 3, gain: float = 1.0) -> nn.Conv2d:
    return glorot(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), gain)


def linear(inputs: int, outputs: int, gain: float = 1.0, bias: bool = True) -> nn.Linear:
    return glorot(nn.Linear(inputs, outputs, bias=bias), gain)


def group_norm(channels: int, groups: int | None = None, eps: float = NORM_EPS) -> nn.GroupNorm:
    """Group normalisation; without `groups`, as many of at least four channels as there are, at most 32."""
    groups = min(channels // 4, 32) if groups is None else groups
    if groups < 1 or channels % groups:
        raise ValueError(f"a group norm cannot split {channels} channels into {groups} equal groups")
    return nn.GroupNorm(groups, channels, eps=eps)


def sinusoidal_embedding(
    time: Tensor, width: int, dtype: torch.dtype, shift: float = 1, cosine_first: bool = False
) -> Tensor:
    """Embed real times (B,) as sines, then cosines, of frequencies spaced geometrically from 1 to 1/10000.

    Args:
        time: Times (B,), about 0 to 1000; fractions are as good as integers.
        width: Length of an embedding, even and at least 4.
        dtype: Type of the result; frequencies and angles are computed in it, or in float32 where that is finer.
        shift: Frequencies are 10000^(-i / (width / 2 - shift)): at 1 the last one is 1/10000, at 0 the one after it.
        cosine_first: Whether the cosines come before the sines.

    Returns:
        Embeddings (B, width).
    """
    fine = torch.promote_types(dtype, torch.float32)
    half = width // 2
    # In the releases' order of operations: times near 1000 turn the rounding of a frequency into a visible angle.
    frequency = torch.exp(-log(10000) * torch.arange(half, dtype=fine, device=time.device) / (half - shift))
    angle = time.to(fine)[:, None] * frequency
    parts = [angle.cos(), angle.sin()] if cosine_first else [angle.sin(), angle.cos()]
    return torch.cat(parts, dim=1).to(dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Let every pixel average the values v of all pixels, (B, N, C) each, weighted by softmax(q k^T / sqrt(C)).

    Spelled out, because torch's fused attention has no second derivative and the gradient of a gradient is needed.
    """
    weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(1, 2), dim=-1)
    return weights @ v


class ResidualBlock(nn.Module):
    """Residual block of a diffusion U-Net, from images (B, inputs, H, W) and embeddings to (B, outputs, H', W').

    Args:
        names: What the release calls norm, conv, embedding layer, norm, conv and shortcut, in this order; `a.0` is
            layer 0 of the part a.
        inputs: Channels that come in.
        outputs: Channels that go out.
        embedding: Width of the (already activated) time embedding.
        dropout: Probability in [0, 1) of dropping an activation before the second convolution.
        groups: Groups of the normalisations (None: as many of at least four channels as there are, at most 32).
        resample: Parameter-free layer that changes the image size in both branches.
        scale: Factor on the sum of both branches.
        project: Whether a block that resamples has a convolution in its shortcut though its width stays.
        scale_shift: Whether the embedding scales and shifts what the second normalisation gives, instead of being
            added before it.
        eps: Added to the variances of the normalisations.
        activation: The nonlinearity that goes before the convolutions; the embedding comes activated.
    """

    def __init__(
        self,
        names: Sequence[str],
        inputs: int,
        outputs: int,
        embedding: int,
        dropout: float,
        groups: int | None = None,
        resample: nn.Module | None = None,
        scale: float = 1.0,
        project: bool = True,
        scale_shift: bool = False,
        eps: float = NORM_EPS,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        self.names, self.dropout, self.scale = tuple(names), dropout, scale
        self.scale_shift, self.activation = scale_shift, activation
        self.resample = nn.Identity() if resample is None else resample
        same = inputs == outputs and (resample is None or not project)
        affine = linear(embedding, 2 * outputs if scale_shift else outputs)
        layers: list[nn.Module] = [group_norm(inputs, groups, eps), conv(inputs, outputs), affine]
        layers += [group_norm(outputs, groups, eps), conv(outputs, outputs, gain=LAST_GAIN)]
        layers += [nn.Identity() if same else conv(inputs, outputs, kernel=1)]
        for name, layer in zip(self.names, layers, strict=True):
            place(self, name, layer)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm0, conv0, affine, norm1, conv1, shortcut = map(self.get_submodule, self.names)
        x, h = norm_act(x, norm0, self.activation)
        told = affine(emb)
        before, scale, shift = (None, *told.chunk(2, dim=1)) if self.scale_shift else (told, None, None)
        _, h = norm_act(conv0(self.resample(h)), norm1, self.activation, before, scale, shift)
        h = F.dropout(h, self.dropout, self.training)
        out = conv1(h).add_(shortcut(self.resample(x)))
        return out if self.scale == 1 else out.mul_(self.scale)


def place(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Make a layer part of a module, under a name such as `conv` or `layers.2`."""
    for part in name.split(".")[:-1]:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    module.add_module(name.rpartition(".")[2], layer)


def check_unet(
    network: str, widths: Sequence[int], blocks: int, channels: int, image_size: int, dropout: float
) -> None:
    """Reject what no U-Net can be: widths of its levels, blocks a level, shape of the images, dropout."""
    if not widths or any(width < 4 or width % 4 for width in widths):
        raise ValueError(f"{network} needs levels with a positive multiple of 4 channels; got {list(widths)}")
    if blocks < 1 or channels < 1:
        raise ValueError(f"{network} needs a block a level and an image channel at least; got {blocks} and {channels}")
    factor = 2 ** (len(widths) - 1)
    if image_size < 1 or image_size % factor:
        raise ValueError(f"{network} with {len(widths)} levels needs an image_size of {factor} n; got {image_size}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{network} needs a dropout in [0, 1); got {dropout}")


def level_widths(network: str, base: int, multipliers: Sequence[int]) -> list[int]:
    """Channels of the levels, `base` (a multiple of 4) times each multiplier."""
    if base < 4 or base % 4:
        raise ValueError(f"{network} needs a base width that is a positive multiple of 4; got {base}")
    return [base * multiplier for multiplier in multipliers]
