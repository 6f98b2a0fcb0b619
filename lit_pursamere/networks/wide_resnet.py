"""Wide residual networks (Zagoruyko & Komodakis, 2016) with RobustBench's parameter names.

Reference: "Wide Residual Networks", BMVC 2016. WRN-28-10 has 36,479,194 parameters at ten classes.

    h = conv(x);  three stages of pre-activation blocks (stride 1, 2, 2);  logits = fc(mean(relu(bn(h))))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["WideResNet"]


def check_wide_resnet(network: str, depth: int, width: int, num_classes: int, dropout: float) -> None:
    """Reject what no wide residual network can be."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"{network} needs a depth of 6 n + 4 (10, 16, 22, 28, ...); got {depth}")
    if width < 1 or num_classes < 2:
        raise ValueError(f"{network} needs width >= 1 and num_classes >= 2; got {width} and {num_classes}")
    if not 0 <= dropout < 1:
        raise ValueError(f"{network} needs a dropout in [0, 1); got {dropout}")


class Normalise(nn.Module):
    """(x - mean) / std per channel, constants that no checkpoint holds; without them the identity."""

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
        super().__init__()
        if (mean is None) != (std is None):
            raise ValueError(f"a network takes mean and std together or neither; got mean={mean}, std={std}")
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) != channels:
                raise ValueError(f"the images have {channels} channels but {name} has {len(values)} entries")
        if std is not None and min(std) <= 0:
            raise ValueError(f"a network needs every std above 0; got {std}")
        # Not persistent: the constants belong to the configuration, and public checkpoints do not hold them.
        for name, values in (("mean", mean), ("std", std)):
            buffer = None if values is None else torch.tensor(values).view(1, -1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std


class BasicBlock(nn.Module):
    """bn - relu - conv - bn - relu - (dropout) - conv plus a shortcut, 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.dropout = dropout
        same = inputs == outputs and stride == 1
        self.convShortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(h)
        h = F.relu(self.bn2(self.conv1(h)))
        h = F.dropout(h, self.dropout, self.training)
        return shortcut + self.conv2(h)


class Stage(nn.Module):
    def __init__(self, blocks: int, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        first = BasicBlock(inputs, outputs, stride, dropout)
        rest = [BasicBlock(outputs, outputs, 1, dropout) for _ in range(blocks - 1)]
        self.layer = nn.Sequential(first, *rest)

    def forward(self, h: Tensor) -> Tensor:
        return self.layer(h)


class WideResNet(nn.Module):
    """Wide residual network WRN-`depth`-`width`, from images (B, C, H, W) in [0, 1] to logits (B, num_classes).

    Args:
        depth: Number of layers; `depth - 4` must be a multiple of 6.
        width: Widening factor of the 16, 32 and 64 channels of the three stages.
        num_classes: Number of classes.
        channels: Image channels.
        dropout: Probability in [0, 1) of dropping an activation between the two convolutions of a block.
        mean: Per-channel mean subtracted inside the network (None: feed [0, 1] pixels as they are).
        std: Per-channel standard deviation that divides inside the network; goes with `mean`.

    Raises:
        ValueError: If depth, width, dropout or the normalisation make no sense.

    Reference: Zagoruyko & Komodakis (2016), Table 1; naming and raw input as in RobustBench.
    """

    def __init__(
        self,
        depth: int = 28,
        width: int = 10,
        num_classes: int = 10,
        channels: int = 3,
        dropout: float = 0.0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        check_wide_resnet("WideResNet", depth, width, num_classes, dropout)
        blocks = (depth - 4) // 6
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.num_classes, self.channels = num_classes, channels
        self.normalise = Normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        self.block1 = Stage(blocks, widths[0], widths[1], 1, dropout)
        self.block2 = Stage(blocks, widths[1], widths[2], 2, dropout)
        self.block3 = Stage(blocks, widths[2], widths[3], 2, dropout)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, num_classes)."""
        h = self.block3(self.block2(self.block1(self.conv1(self.normalise(x)))))
        h = F.relu(self.bn1(h))
        return self.fc(h.mean(dim=(2, 3)))
