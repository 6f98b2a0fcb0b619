"""MNISTEnergy: a small network that says how likely an image of a digit is, up to a constant.

Reference: Du & Mordatch, "Implicit Generation and Modeling with Energy-Based Models", NeurIPS 2019, for what it is
trained to; layers and names are those of the checkpoint in phlippe/saved_models.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

__all__ = ["MNISTEnergy"]


class MNISTEnergy(nn.Sequential):
    """Minus the energy of centred images (B, 1, 28, 28), (B, 1): larger for likelier ones; 76,993 parameters."""

    def __init__(self) -> None:
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 5, stride=2, padding=4), nn.SiLU()]
        for inputs, outputs in pairwise((16, 32, 64, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.SiLU()]
        super().__init__(*layers, nn.Flatten(), nn.Linear(256, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Minus the energy (B, 1) of images (B, 1, 28, 28) in [-1, 1]; a ValueError for other shapes."""
        if x.shape[1:] != (1, 28, 28):
            raise ValueError(f"MNISTEnergy wants images (B, 1, 28, 28); got {tuple(x.shape)}")
        return super().forward(x)
