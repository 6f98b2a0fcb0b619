"""NCSNv2: the noise-unconditional RefineNet score network of Song & Ermon (2020).

Reference: "Improved Techniques for Training Score-Based Generative Models", NeurIPS 2020, appendix B.
Parameter names equal those of the released checkpoints, so their state dicts load as they are.

    h = conv(2 y - 1);  h1..h4 = residual stages (x1, x1/2, dilation 2, dilation 4)
    r = refine(h4);  r = refine(h3, r);  r = refine(h2, r);  r = refine(h1, r);  out = conv(elu(norm(r)))
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.fused import add_elu, norm_elu, plain_norm, pool

__all__ = ["NCSNv2"]


class InstanceNormPlus(nn.Module):
    """Normalise every channel of every image, then add back how its mean stood among the channel means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.gamma = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor) -> Tensor:
        return plain_norm(h, self.alpha, self.gamma, self.beta)

    def with_elu(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h (B, C, H, W), and the ELU of its normalisation."""
        return norm_elu(h, self.alpha, self.gamma, self.beta)


def conv3x3(inputs: int, outputs: int, dilation: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=bias)


class ConvMeanPool(nn.Module):
    """Convolve, then average 2x2 blocks."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, h: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(h), 2)


class ResidualBlock(nn.Module):
    """norm - elu - conv - norm - elu - conv plus a shortcut; `down` changes width and, undilated, halves the size."""

    def __init__(self, inputs: int, outputs: int, down: bool = False, dilation: int = 1) -> None:
        super().__init__()
        middle = inputs if down else outputs
        self.conv1 = conv3x3(inputs, middle, dilation)
        self.normalize2 = InstanceNormPlus(middle)
        if down and dilation == 1:
            self.conv2: nn.Module = ConvMeanPool(middle, outputs, 3)
            self.shortcut: nn.Module = ConvMeanPool(inputs, outputs, 1)
        else:
            self.conv2 = conv3x3(middle, outputs, dilation)
            self.shortcut = conv3x3(inputs, outputs, dilation) if down else nn.Identity()
        self.normalize1 = InstanceNormPlus(inputs)

    def forward(self, h: Tensor) -> Tensor:
        h, out = self.normalize1.with_elu(h)
        _, out = self.normalize2.with_elu(self.conv1(out))
        out = self.conv2(out)
        return out.add_(self.shortcut(h))


class ResidualConvUnit(nn.Module):
    """`blocks` residual chains of two activated, bias-free convolutions; names start with digits as released."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.names = [(f"{block}_1_conv", f"{block}_2_conv") for block in range(1, blocks + 1)]
        for name in (name for pair in self.names for name in pair):
            self.add_module(name, conv3x3(channels, channels, bias=False))

    def forward(self, h: Tensor) -> Tensor:
        h, out = add_elu(h)
        for i, (first, second) in enumerate(self.names):
            if i > 0:
                h, out = add_elu(h, out)
            _, out = add_elu(getattr(self, first)(out))
            out = getattr(self, second)(out)
        return out.add_(h)


class MultiScaleFusion(nn.Module):
    """Bring every input to one width and size, and add."""

    def __init__(self, inputs: list[int], outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv3x3(channels, outputs) for channels in inputs])

    def forward(self, inputs: list[Tensor], size: torch.Size) -> Tensor:
        fused: Any = 0
        for conv, h in zip(self.convs, inputs, strict=True):
            h = conv(h)
            if h.shape[2:] != size:  # at equal size the bilinear map with aligned corners is the identity
                h = F.interpolate(h, size=size, mode="bilinear", align_corners=True)
            fused = fused + h
        return fused


class ChainedResidualPooling(nn.Module):
    def __init__(self, channels: int, stages: int = 2) -> None:
        super().__init__()
        self.convs = nn.ModuleList([conv3x3(channels, channels, bias=False) for _ in range(stages)])

    def forward(self, h: Tensor) -> Tensor:
        _, h = add_elu(h)
        first, *others = self.convs
        h, pooled = pool(h)
        path = first(pooled)
        for conv in others:
            path, pooled = pool(path)
            h = h + path
            path = conv(pooled)
        return path.add_(h)


class RefineBlock(nn.Module):
    """Adapt every input, fuse them, pool with residuals, and adapt the output."""

    def __init__(self, inputs: list[int], outputs: int, output_blocks: int = 1) -> None:
        super().__init__()
        self.adapt_convs = nn.ModuleList([ResidualConvUnit(channels, 2) for channels in inputs])
        self.output_convs = ResidualConvUnit(outputs, output_blocks)
        if len(inputs) > 1:
            self.msf = MultiScaleFusion(inputs, outputs)
        self.crp = ChainedResidualPooling(outputs)

    def forward(self, inputs: list[Tensor], size: torch.Size) -> Tensor:
        adapted = [unit(h) for unit, h in zip(self.adapt_convs, inputs, strict=True)]
        h = self.msf(adapted, size) if len(adapted) > 1 else adapted[0]
        return self.output_convs(self.crp(h))


class NCSNv2(nn.Module):
    """Score network body without noise input: the noise estimate is minus its output, the score its output / sigma.

    Args:
        ngf: Width of the first stage (paper: 128 for CIFAR-10).
        channels: Image channels.
        image_size: Height and width of the images in pixels; must be even.

    Reference: Song & Ermon (2020), Table 2 and appendix B. 29,694,083 parameters at ngf 128 with 3 channels.
    """

    def __init__(self, ngf: int = 128, channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        if ngf < 2 or channels < 1:
            raise ValueError(f"NCSNv2 needs ngf >= 2 and channels >= 1; got ngf={ngf}, channels={channels}")
        if image_size < 4 or image_size % 2:
            raise ValueError(f"NCSNv2 needs an even image_size of at least 4; got {image_size}")
        self.ngf, self.channels, self.image_size = ngf, channels, image_size
        wide = 2 * ngf
        self.begin_conv = conv3x3(channels, ngf)
        self.normalizer = InstanceNormPlus(ngf)
        self.end_conv = conv3x3(ngf, channels)
        self.res1 = nn.Sequential(ResidualBlock(ngf, ngf), ResidualBlock(ngf, ngf))
        self.res2 = nn.Sequential(ResidualBlock(ngf, wide, down=True), ResidualBlock(wide, wide))
        self.res3 = nn.Sequential(ResidualBlock(wide, wide, True, 2), ResidualBlock(wide, wide, dilation=2))
        self.res4 = nn.Sequential(ResidualBlock(wide, wide, True, 4), ResidualBlock(wide, wide, dilation=4))
        self.refine1 = RefineBlock([wide], wide)
        self.refine2 = RefineBlock([wide, wide], wide)
        self.refine3 = RefineBlock([wide, wide], ngf)
        self.refine4 = RefineBlock([ngf, ngf], ngf, output_blocks=3)

    def forward(self, y: Tensor) -> Tensor:
        """Map noisy images (B, C, H, W) in [0, 1] units plus noise to an array of the same shape."""
        h1 = self.res1(self.begin_conv(2 * y - 1))
        h2 = self.res2(h1)
        h3 = self.res3(h2)
        h4 = self.res4(h3)
        r = self.refine1([h4], h4.shape[2:])
        r = self.refine2([h3, r], h3.shape[2:])
        r = self.refine3([h2, r], h2.shape[2:])
        r = self.refine4([h1, r], h1.shape[2:])
        return self.end_conv(F.elu(self.normalizer(r)))
