"""Residual networks (He et al., 2016) for small images, under the parameter names of public checkpoints.

Reference: "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 (`CIFARResNet`); `ResNet18` is the
network of table 1 with a 3x3 convolution and no pooling at its start, as is usual at 32x32 pixels; `ResNet4b` that of
the competition VNN-COMP 2021, without normalisation, as verifiers like it.

    block   h = relu(bn(conv(x)));  out = relu(bn(conv(h)) + shortcut(x))
    CIFARResNet   conv, 3 stages (16, 32, 64 channels) of n blocks, mean, linear                  depth = 6 n + 2
    ResNet18      conv, 4 stages (64, 128, 256, 512 channels) of 2 blocks, mean, linear
    ResNet4b      conv / 2, 2 stages (32 channels, each / 2) of 2 blocks, linear, linear
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.wide_resnet import Normalise

__all__ = ["CIFARResNet", "ResNet4b", "ResNet18"]

Numbers = Sequence[float] | None
Shortcut = Callable[[int, int, int], nn.Module]


class Subsample(nn.Module):
    """Every second pixel, and zeros for the channels that are missing, half before and half behind (option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        before = (outputs - inputs) // 2
        self.pad, self.stride = (0, 0, 0, 0, before, outputs - inputs - before), stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.pad)


def projection(inputs: int, outputs: int, stride: int, norm: bool) -> nn.Sequential:
    """A 1x1 convolution (option B), and its normalisation."""
    conv = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=not norm)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs)) if norm else nn.Sequential(conv)


class BasicBlock(nn.Module):
    """conv - bn - relu - conv - bn, plus a shortcut, relu; without normalisation the convolutions have biases."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=not norm)
        self.bn1 = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=not norm)
        self.bn2 = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential() if same else shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.shortcut(x))


def stage(blocks: int, inputs: int, outputs: int, stride: int, norm: bool, shortcut: Shortcut) -> nn.Sequential:
    block = partial(BasicBlock, norm=norm, shortcut=shortcut)
    return nn.Sequential(block(inputs, outputs, stride), *(block(outputs, outputs, 1) for _ in range(blocks - 1)))


def start_kaiming(network: nn.Module) -> None:
    """He et al.'s start of the convolutions (2015)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class CIFARResNet(nn.Module):
    """ResNet-`depth` for CIFAR, shortcuts without parameters, from images (B, C, H, W) in [0, 1] to logits.

    Args:
        depth: Number of layers, 6 n + 2 (20, 32, 44, 56, 110).
        num_classes: Number of classes.
        channels: Image channels.
        mean: Per-channel mean subtracted inside the network (None: feed [0, 1] pixels as they are).
        std: Per-channel standard deviation that divides inside the network; goes with `mean`.

    Raises:
        ValueError: If the depth is another, or the normalisation makes no sense.

    Reference: He et al. (2016), section 4.2. ResNet-20 has 269,722 parameters, ResNet-56 853,018.
    """

    def __init__(
        self, depth: int = 20, num_classes: int = 10, channels: int = 3, mean: Numbers = None, std: Numbers = None
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"CIFARResNet needs a depth of 6 n + 2 (20, 32, 44, 56, ...); got {depth}")
        blocks = (depth - 2) // 6
        self.normalise = Normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(blocks, 16, 16, 1, True, Subsample)
        self.layer2 = stage(blocks, 16, 32, 2, True, Subsample)
        self.layer3 = stage(blocks, 32, 64, 2, True, Subsample)
        self.linear = nn.Linear(64, num_classes)
        start_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, num_classes)."""
        h = F.relu(self.bn1(self.conv1(self.normalise(x))))
        h = self.layer3(self.layer2(self.layer1(h)))
        return self.linear(h.mean(dim=(2, 3)))


class ResNet18(nn.Module):
    """ResNet-18 for small images, from images (B, C, H, W) in [0, 1] to logits; 11,173,962 parameters.

    Arguments and errors are those of `CIFARResNet`, without a depth.

    Reference: He et al. (2016), table 1.
    """

    def __init__(self, num_classes: int = 10, channels: int = 3, mean: Numbers = None, std: Numbers = None) -> None:
        super().__init__()
        project = partial(projection, norm=True)
        self.normalise = Normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(2, 64, 64, 1, True, project)
        self.layer2 = stage(2, 64, 128, 2, True, project)
        self.layer3 = stage(2, 128, 256, 2, True, project)
        self.layer4 = stage(2, 256, 512, 2, True, project)
        self.linear = nn.Linear(512, num_classes)
        start_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, num_classes)."""
        h = F.relu(self.bn1(self.conv1(self.normalise(x))))
        h = self.layer4(self.layer3(self.layer2(self.layer1(h))))
        return self.linear(h.mean(dim=(2, 3)))


class ResNet4b(nn.Module):
    """ResNet-4B of VNN-COMP 2021, from images (B, C, 32, 32) in [0, 1] to logits; 123,734 parameters.

    Arguments and errors are those of `CIFARResNet`, without a depth.

    Reference: stanleybak/vnncomp2021, benchmarks/cifar10_resnet.
    """

    def __init__(self, num_classes: int = 10, channels: int = 3, mean: Numbers = None, std: Numbers = None) -> None:
        super().__init__()
        project = partial(projection, norm=False)
        self.normalise = Normalise(channels, mean, std)
        self.conv1 = nn.Conv2d(channels, 16, 3, stride=2, padding=1)
        self.layer1 = stage(2, 16, 32, 2, False, project)
        self.layer2 = stage(2, 32, 32, 2, False, project)
        self.linear1 = nn.Linear(32 * 4 * 4, 100)
        self.linear2 = nn.Linear(100, num_classes)
        start_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, 32, 32) in [0, 1]; returns logits (B, num_classes), or raises a ValueError."""
        if x.shape[-2:] != (32, 32):
            raise ValueError(f"ResNet4b classifies images of 32x32 pixels; got {x.shape[-2]}x{x.shape[-1]}")
        h = self.layer2(self.layer1(F.relu(self.conv1(self.normalise(x)))))
        return self.linear2(F.relu(self.linear1(h.flatten(1))))
