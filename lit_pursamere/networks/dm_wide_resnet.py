"""Wide residual networks as DeepMind's adversarial trainings use them, with SiLU, under RobustBench's parameter names.

Reference: Zagoruyko & Komodakis, "Wide Residual Networks", BMVC 2016; Gowal et al. (2020), "Uncovering the Limits of
Adversarial Training", for activation and normalisation. The weights of Gowal, Rebuffi, Wang et al. on RobustBench.

    h = conv((x - mean) / std);  three stages of pre-activation blocks;  logits = linear(mean(silu(bn(h))))

Blocks differ from `WideResNet`'s in two ways: a strided convolution pads right and below only, as TensorFlow does, and
the shortcut is a convolution only where the width changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.wide_resnet import Normalise, check_wide_resnet

__all__ = ["DMWideResNet"]


class Block(nn.Module):
    """bn - silu - conv - bn - silu - conv plus a shortcut, 1x1 where the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.pad = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.batchnorm_0(x))
        shortcut = x if self.shortcut is None else self.shortcut(h)
        h = F.silu(self.batchnorm_1(self.conv_0(F.pad(h, self.pad))))
        return shortcut + self.conv_1(h)


class Stage(nn.Module):
    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
        self.block = nn.Sequential(Block(inputs, outputs, stride), *rest)

    def forward(self, h: Tensor) -> Tensor:
        return self.block(h)


class DMWideResNet(nn.Module):
    """WRN-`depth`-`width` with SiLU, from images (B, C, H, W) in [0, 1] to logits (B, num_classes).

    Arguments and errors are those of `WideResNet`, without dropout; the normalisation is the authors' for CIFAR-10 by
    default (CIFAR-100: .5071, .4865, .4409 and .2673, .2564, .2762).

    Reference: Gowal et al. (2020). WRN-28-10 has 36,479,194 parameters at ten classes, WRN-70-16 266,796,506.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        channels: int = 3,
        mean: Sequence[float] | None = (0.4914, 0.4822, 0.4465),
        std: Sequence[float] | None = (0.2471, 0.2435, 0.2616),
    ) -> None:
        super().__init__()
        check_wide_resnet("DMWideResNet", depth, width, num_classes, 0.0)
        blocks = (depth - 4) // 6
        self.num_classes, self.channels = num_classes, channels
        self.normalise = Normalise(channels, mean, std)
        self.init_conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.layer = nn.Sequential(
            Stage(blocks, 16, 16 * width, 1),
            Stage(blocks, 16 * width, 32 * width, 2),
            Stage(blocks, 32 * width, 64 * width, 2),
        )
        self.batchnorm = nn.BatchNorm2d(64 * width)
        self.logits = nn.Linear(64 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, num_classes)."""
        h = F.silu(self.batchnorm(self.layer(self.init_conv(self.normalise(x)))))
        return self.logits(h.mean(dim=(2, 3)))
