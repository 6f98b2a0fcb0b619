"""FFDNet: a plain convolutional denoiser of Gaussian noise that is told how strong the noise is.

Reference: Zhang, Zuo, Zhang (2018), "FFDNet: Toward a Fast and Flexible Solution for CNN based Image Denoising", IEEE
TIP, section III. Parameter names are those of the released files without their leading `model.`.

    u = 2x2 pixels as channels;  append a map of sigma;  conv, (relu, conv) x (depth - 1);  channels as 2x2 pixels
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FFDNet"]


class FFDNet(nn.Sequential):
    """Denoiser (noisy image, sigma) -> clean image at half the resolution, without normalisation or skip connection.

    Args:
        channels: Image channels.
        width: Channels of the hidden convolutions (released: 96 for colour, 64 for grey images).
        depth: Convolutions (released: 12 for colour, 15 for grey images).

    Raises:
        ValueError: If channels or width are below 1 or there are fewer than 2 convolutions.

    Reference: Zhang et al. (2018), table I. Defaults are the colour network, 852,108 parameters.
    """

    def __init__(self, channels: int = 3, width: int = 96, depth: int = 12) -> None:
        if channels < 1 or width < 1 or depth < 2:
            raise ValueError(
                f"FFDNet needs channels >= 1, width >= 1 and depth >= 2; got {channels}, {width} and {depth}"
            )
        ends = [4 * channels + 1, *[width] * (depth - 1), 4 * channels]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(ends):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
        super().__init__(*layers[:-1])

    def forward(self, y: Tensor, sigma: Tensor) -> Tensor:  # type: ignore[override]
        """Denoise images.

        Args:
            y: Noisy images (B, C, H, W), [0, 1] pixels plus noise; H and W even.
            sigma: Standard deviation of the noise in the same units, (B,).

        Returns:
            Denoised images (B, C, H, W).
        """
        if y.shape[-1] % 2 or y.shape[-2] % 2:
            raise ValueError(f"FFDNet halves images, so height and width must be even; got {tuple(y.shape)}")
        u = F.pixel_unshuffle(y, 2)
        level = sigma.reshape(-1, 1, 1, 1).expand(len(u), 1, *u.shape[2:])
        return F.pixel_shuffle(super().forward(torch.cat([u, level], dim=1)), 2)
