"""The two small networks that papers on MNIST attack: two convolutions with pooling, then two linear layers.

References: Madry et al. (2018), "Towards Deep Learning Models Resistant to Adversarial Attacks" (its MNIST network,
which Srinivasan et al. (2021) use as CNN and, adversarially trained, as Madry); Ding et al. (2019), "AdverTorch".

    MadryCNN   conv 5x5 of 32, conv 5x5 of 64, linear 1024                    3,274,634 parameters
    LeNet5     conv 3x3 of 32, conv 3x3 of 64, linear 200                       648,226 parameters
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LeNet5", "MadryCNN"]


class PooledCNN(nn.Module):
    """conv - relu - pool - conv - relu - pool - linear - relu - linear."""

    def __init__(self, kernel: int, hidden: int, names: tuple[str, str], classes: int, channels: int, size: int):
        super().__init__()
        network = type(self).__name__
        if size < 4 or size % 4 or channels < 1 or classes < 2:
            raise ValueError(
                f"{network} needs an image_size of 4 n, channels >= 1 and num_classes >= 2; "
                f"got {size}, {channels} and {classes}"
            )
        self.channels, self.image_size, self.num_classes, self.names = channels, size, classes, names
        self.conv1 = nn.Conv2d(channels, 32, kernel, padding=kernel // 2)
        self.conv2 = nn.Conv2d(32, 64, kernel, padding=kernel // 2)
        self.add_module(names[0], nn.Linear(64 * (size // 4) ** 2, hidden))
        self.add_module(names[1], nn.Linear(hidden, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Classify images (B, C, H, W) in [0, 1]; returns logits (B, num_classes); ValueError for other sizes."""
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"this {type(self).__name__} classifies images of {self.image_size}x{self.image_size} pixels; "
                f"got {x.shape[-2]}x{x.shape[-1]}"
            )
        h = F.max_pool2d(F.relu(self.conv1(x)), 2)
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        first, last = (getattr(self, name) for name in self.names)
        return last(F.relu(first(h.flatten(1))))


class MadryCNN(PooledCNN):
    """Madry's network for MNIST, from images (B, C, H, W) in [0, 1] to logits.

    Args:
        num_classes: Number of classes.
        channels: Image channels.
        image_size: Height and width of the images, a multiple of 4.

    Raises:
        ValueError: If a number is out of range.

    Reference: Madry et al. (2018), section 5; weights start from a normal distribution of deviation 0.1, cut at two
    deviations, biases at 0.1.
    """

    def __init__(self, num_classes: int = 10, channels: int = 1, image_size: int = 28) -> None:
        super().__init__(5, 1024, ("fc1", "fc2"), num_classes, channels, image_size)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.constant_(parameter, 0.1)
            else:
                nn.init.trunc_normal_(parameter, std=0.1, a=-0.2, b=0.2)


class LeNet5(PooledCNN):
    """AdverTorch's LeNet5, from images (B, C, H, W) in [0, 1] to logits, under the names of its checkpoints.

    Arguments and errors are those of `MadryCNN`.

    Reference: Ding et al. (2019); its kernels are 3x3, unlike LeCun's.
    """

    def __init__(self, num_classes: int = 10, channels: int = 1, image_size: int = 28) -> None:
        super().__init__(3, 200, ("linear1", "linear2"), num_classes, channels, image_size)
