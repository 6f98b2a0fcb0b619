"""What a purifier is: a function of an image and of named noise, nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from lit_pursamere.diffusion.noise import NoiseSource

__all__ = ["Identity", "Purifier"]


class Purifier(nn.Module, ABC):
    """Maps images (B, C, H, W) in [0, 1] to images of the same shape in [0, 1].

    A purifier has no state that a forward pass changes: it does no I/O, leaves weights, modes, `.grad` and, when its
    noise is seeded, the global generators alone, and treats every image on its own. It always stays in evaluation
    mode. If gradients are enabled and x requires one, the output is differentiable with respect to x.
    """

    @abstractmethod
    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        """Purify x; `noise` replaces the purifier's own source of Gaussian draws."""

    def train(self, mode: bool = True) -> Purifier:
        return super().train(False)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class Identity(Purifier):
    """No purification: what an undefended classifier has."""

    def forward(self, x: Tensor, noise: NoiseSource | None = None) -> Tensor:
        return x
