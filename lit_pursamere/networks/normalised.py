"""A network that wants normalised images, behind the normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lit_pursamere.networks.wide_resnet import Normalise

__all__ = ["Normalised"]


class Normalised(nn.Module):
    """network((x - mean) / std): a defence hands images in [0, 1] to its classifier.

    Args:
        network: From normalised images (B, C, H, W) to logits (B, K).
        mean: One per channel, in the units of [0, 1] pixels; a single one holds for all channels.
        std: The same, above 0.

    Raises:
        ValueError: If there is not one for each channel, or a deviation is not above 0.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network, self.mean, self.std = network, list(mean), list(std)
        self.normalise = Normalise(len(self.mean), self.mean, self.std)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.mean) not in (1, x.shape[1]):
            raise ValueError(f"the images have {x.shape[1]} channels but the normalisation has {len(self.mean)}")
        return self.network(self.normalise(x))

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"
