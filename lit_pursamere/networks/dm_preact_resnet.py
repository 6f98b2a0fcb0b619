"""Pre-activation ResNet-18 and -34 as DeepMind's adversarial trainings use them, under RobustBench's parameter names.

Reference: K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016; Gowal et al.
(2020) and Rebuffi et al. (2021) for activation and normalisation: their `R18` on RobustBench.

    h = conv((x - mean) / std);  four stages of pre-activation blocks;  logits = linear(mean(silu(bn(h))))

Blocks differ from the usual ones in two ways: strided convolutions pad right and below only, as TensorFlow does, and
the shortcut, where the shape changes, is a 3x3 convolution of what comes in, before its normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.wide_resnet import Normalise

__all__ = ["DMPreActResNet"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # of the four stages, by depth
WIDTHS = (64, 128, 256, 512)


class Block(nn.Module):
    """bn - silu - conv - bn - silu - conv plus a shortcut, 3x3 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.batchnorm_0 = nn.BatchNorm2d(inputs)
        self.conv_2d_1 = nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)
        self.batchnorm_1 = nn.BatchNorm2d(outputs)
        self.conv_2d_2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.pad = (1, 1, 1, 1) if stride == 1 else (0, 1, 0, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 3, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_2d_1(F.pad(F.silu(self.batchnorm_0(x)), self.pad))
        shortcut = x if self.shortcut is None else self.shortcut(F.pad(x, self.pad))
        return shortcut + self.conv_2d_2(F.silu(self.batchnorm_1(h)))


def stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
    rest = [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Block(inputs, outputs, stride), *rest)


class DMPreActResNet(nn.Module):
    """Pre-activation ResNet with SiLU, from images (B, C, H, W) in [0, 1] to logits (B, num_classes).

    Args:
        depth: 18 or 34.
        num_classes: Number of classes.
        channels: Image channels.
        mean: Subtracted from the pixels, one per channel (None: nothing); the authors' for CIFAR-10 by default.
        std: Divides the pixels then.

    Raises:
        ValueError: If the depth is another, or there are no classes.

    Reference: Rebuffi et al. (2021), "Fixing Data Augmentation to Improve Adversarial Robustness". ResNet-18 has
    12,548,426 parameters at ten classes.
    """

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 10,
        channels: int = 3,
        mean: Sequence[float] | None = (0.4914, 0.4822, 0.4465),
        std: Sequence[float] | None = (0.2471, 0.2435, 0.2616),
    ) -> None:
        super().__init__()
        if depth not in BLOCKS or num_classes < 1:
            raise ValueError(
                f"DMPreActResNet needs depth 18 or 34, and num_classes >= 1; got {depth} and {num_classes}"
            )
        self.num_classes, self.channels = num_classes, channels
        self.normalise = Normalise(channels, mean, std)
        self.conv_2d = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        first, second, third, fourth = BLOCKS[depth]
        self.layer_0 = stage(first, WIDTHS[0], WIDTHS[0], 1)
        self.layer_1 = stage(second, WIDTHS[0], WIDTHS[1], 2)
        self.layer_2 = stage(third, WIDTHS[1], WIDTHS[2], 2)
        self.layer_3 = stage(fourth, WIDTHS[2], WIDTHS[3], 2)
        self.batchnorm = nn.BatchNorm2d(WIDTHS[3])
        self.logits = nn.Linear(WIDTHS[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, num_classes)."""
        h = self.layer_1(self.layer_0(self.conv_2d(self.normalise(x))))
        h = F.silu(self.batchnorm(self.layer_3(self.layer_2(h))))
        return self.logits(h.mean(dim=(2, 3)))
