"""Wide residual networks (Zagoruyko & Komodakis, 2016) as ADP and GDMP classify with, under their parameter names.

Reference: "Wide Residual Networks", BMVC 2016, in the variant whose convolutions have biases and whose blocks stride
in their second convolution and shortcut their raw input. WRN-28-10 has 36,489,290 parameters at ten classes.

    h = conv((x - mean) / std);  three stages of pre-activation blocks;  logits = linear(mean(relu(bn(h))))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.wide_resnet import Normalise, check_wide_resnet

__all__ = ["WideResNetADP"]


class BasicBlock(nn.Module):
    """bn - relu - conv - (dropout) - bn - relu - conv plus a shortcut, 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.dropout = dropout
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride=stride, padding=1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential(*[] if same else [nn.Conv2d(inputs, outputs, 1, stride=stride)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.bn1(x)))
        h = F.dropout(h, self.dropout, self.training)
        return self.shortcut(x) + self.conv2(F.relu(self.bn2(h)))


def stage(blocks: int, inputs: int, outputs: int, stride: int, dropout: float) -> nn.Sequential:
    rest = [BasicBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)]
    return nn.Sequential(BasicBlock(inputs, outputs, stride, dropout), *rest)


class WideResNetADP(nn.Module):
    """WRN-`depth`-`width` of ADP and GDMP, from images (B, C, H, W) in [0, 1] to logits (B, num_classes).

    Arguments and errors are those of `WideResNet`; dropout and normalisation are the authors' by default.

    Reference: Zagoruyko & Komodakis (2016), Table 1; Yoon et al., "Adversarial Purification with Score-based
    Generative Models", ICML 2021, for the classifier and CIFAR-10's mean and std.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        channels: int = 3,
        dropout: float = 0.3,
        mean: Sequence[float] | None = (0.4914, 0.4822, 0.4465),
        std: Sequence[float] | None = (0.2023, 0.1994, 0.2010),
    ) -> None:
        super().__init__()
        check_wide_resnet("WideResNetADP", depth, width, num_classes, dropout)
        blocks = (depth - 4) // 6
        self.num_classes, self.channels = num_classes, channels
        self.normalise = Normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.layer1 = stage(blocks, 16, 16 * width, 1, dropout)
        self.layer2 = stage(blocks, 16 * width, 32 * width, 2, dropout)
        self.layer3 = stage(blocks, 32 * width, 64 * width, 2, dropout)
        self.bn1 = nn.BatchNorm2d(64 * width, momentum=0.9)
        self.linear = nn.Linear(64 * width, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.xavier_uniform_(module.weight, nn.init.calculate_gain("relu"))
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, num_classes)."""
        h = self.layer3(self.layer2(self.layer1(self.conv1(self.normalise(x)))))
        h = F.relu(self.bn1(h))
        return self.linear(h.mean(dim=(2, 3)))
