"""Small convolutional autoencoders; trained to take Gaussian noise off images, they are denoisers r.

References: Srinivasan et al. (2021), "Robustifying Models Against Adversarial Attacks by Langevin Dynamics", appendix
B.3.1 (which layers; widths, strides and activations are ours); Meng and Chen (2017), "MagNet", section 5.1.

    DenoisingAutoencoder: conv / 2, conv / 2 | deconv x 2, deconv x 2, conv              (ReLU; sigmoid at the end)
    MagNetAutoencoder:    conv, average pooling, conv | conv, upsampling, conv, conv     (sigmoid everywhere)
                          conv | conv, conv                                              (without pooling)
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DenoisingAutoencoder", "MagNetAutoencoder"]

DARK = -2.0  # a pixel of 0.12, as logit


def check_autoencoder(network: str, channels: int, width: int) -> None:
    """Reject what no autoencoder can be."""
    if channels < 1 or width < 1:
        raise ValueError(f"{network} needs channels >= 1 and width >= 1; got {channels} and {width}")


def check_size(network: str, x: Tensor, factor: int) -> None:
    """Refuse images that would come back in another size."""
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"{network} needs images whose height and width are multiples of {factor}; got {height}x{width}; pad or "
            "resize them"
        )


class DenoisingAutoencoder(nn.Module):
    """Two strided convolutions, two transposed ones and a last convolution, from images to images in (0, 1).

    The mean of images in [0, 1] given a noisy one lies in [0, 1], so the last activation takes nothing away. Untrained,
    it is dark: from grey on, the fastest way down on images of much black is to switch every feature off, for good.

    Args:
        channels: Image channels.
        width: Feature maps at half the size; there are twice as many at a quarter.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        check_autoencoder("DenoisingAutoencoder", channels, width)
        self.down1 = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.up1 = nn.ConvTranspose2d(2 * width, 2 * width, 3, stride=2, padding=1, output_padding=1)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1)
        self.pixels = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.constant_(self.pixels.get_parameter("bias"), DARK)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise images (B, C, H, W) with H and W multiples of 4; raises a ValueError for other sizes."""
        check_size("DenoisingAutoencoder", x, 4)
        for layer in (self.down1, self.down2, self.up1, self.up2):
            x = F.relu(layer(x))
        return torch.sigmoid(self.pixels(x))


class MagNetAutoencoder(nn.Module):
    """MagNet's autoencoder for MNIST, 3x3 convolutions and sigmoids, from images to images in (0, 1).

    With pooling it is autoencoder I (reformer and detector I), without it autoencoder II (detector II).

    Args:
        channels: Image channels.
        width: Feature maps (MagNet: 3).
        pooling: Whether the code has half the image's size.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(self, channels: int = 1, width: int = 3, pooling: bool = True) -> None:
        super().__init__()
        check_autoencoder("MagNetAutoencoder", channels, width)
        self.pooling = pooling
        inner = 4 if pooling else 2
        sizes = [channels, *[width] * inner, channels]
        convs = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes)]
        self.convs = nn.ModuleList(convs)
        for conv in convs:  # the start that the original's framework gives
            nn.init.xavier_uniform_(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Denoise images (B, C, H, W); with pooling, H and W must be even, else a ValueError is raised."""
        check_size("MagNetAutoencoder", x, 2 if self.pooling else 1)
        for number, conv in enumerate(self.convs):
            x = torch.sigmoid(conv(x))
            if self.pooling and number == 0:
                x = F.avg_pool2d(x, 2)
            if self.pooling and number == 2:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
        return x
