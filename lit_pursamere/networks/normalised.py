"""A network that wants normalised images, and perhaps of another size, behind what brings them there."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks.wide_resnet import Normalise

__all__ = ["Normalised"]


class Normalised(nn.Module):
    """network((resized x - mean) / std): a defence hands images in [0, 1] to its classifier.

    Args:
        network: From normalised images (B, C, H, W) to logits (B, K).
        mean: One per channel, in the units of [0, 1] pixels; a single one holds for all channels.
        std: The same, above 0.
        resize: Height and width that images are brought to before, bicubically: networks for ImageNet want 224. None:
            they keep their size.

    Raises:
        ValueError: If there is not one for each channel, or a deviation or the size is not above 0.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], *, resize: int | None = None
    ) -> None:
        super().__init__()
        if resize is not None and resize < 1:
            raise ValueError(f"Normalised resizes images to at least one pixel; got resize {resize}")
        self.network, self.mean, self.std, self.resize = network, list(mean), list(std), resize
        self.normalise = Normalise(len(self.mean), self.mean, self.std)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.mean) not in (1, x.shape[1]):
            raise ValueError(f"the images have {x.shape[1]} channels but the normalisation has {len(self.mean)}")
        if self.resize is not None and x.shape[-2:] != (self.resize, self.resize):
            x = F.interpolate(x, size=(self.resize, self.resize), mode="bicubic", align_corners=False)
        return self.network(self.normalise(x))

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}" + ("" if self.resize is None else f", resize={self.resize}")
