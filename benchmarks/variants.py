"""Variations of PurSAMERE, tried against exact gradients; configs/compare/digits_variants.yaml puts them to the test.

None is part of a paper, and none is recommended: what they gave stands in docs/results.md.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from lit_pursamere.diffusion import NoiseSource, ScoreModel
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.threat import image_norm, over_images

__all__ = ["Variant"]

MEMORY = 0.9  # of the running mean of directions


class Variant(PurSAMERE):
    """PurSAMERE with another optimiser, start, end, or space to move in; at the defaults it is PurSAMERE itself.

    Args:
        score_model: Its R is descended.
        move: `adam`, whose first step is a sign; `normalised`, steps of length lr sqrt(d) along the gradient, which is
            as long as Adam's first; `heavy_ball`, the same along a running mean of normalised gradients.
        start: Standard deviation, in pixel units, of Gaussian noise that is added to the image at the beginning. The
            ball stays around the image. The noise is the stream `forward`.
        enough: For every level the R, a sum over pixels, at or below which the gradient counts as 0, so that
            `normalised` does not move. None: it always moves.
        kept: Share of the lowest frequencies, in (0, 1] along each axis, that the displacement may have.
        settings: PurSAMERE's own.

    Raises:
        ValueError: If one of them is out of range.
    """

    streams = ("level", "forward")

    def __init__(
        self,
        score_model: ScoreModel,
        move: Literal["adam", "normalised", "heavy_ball"] = "adam",
        start: float = 0.0,
        enough: list[float] | None = None,
        kept: float = 1.0,
        **settings: Any,
    ) -> None:
        super().__init__(score_model, **settings)
        if move not in ("adam", "normalised", "heavy_ball"):
            raise ValueError(f"move must be 'adam', 'normalised' or 'heavy_ball'; got {move!r}")
        if not (0 <= start < math.inf and 0 < kept <= 1):
            raise ValueError(f"Variant needs start >= 0 and kept in (0, 1]; got {start} and {kept}")
        if enough is not None and len(enough) != len(self.sigmas):
            raise ValueError(f"enough needs a number for each of {len(self.sigmas)} levels; got {len(enough)}")
        self.move, self.start, self.enough, self.kept = move, start, enough, kept

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        begin = x
        if self.start > 0:
            (xi,) = noise.draw("forward", 0, 1, x)
            begin = self._project(x + self.start * xi, x)
        return self._descend(x, noise, None, begin)

    def _error_and_gradient(self, x: Tensor, sigma: float, xi: Tensor) -> tuple[Tensor, Tensor]:
        error, g = super()._error_and_gradient(x, sigma, xi)
        if self.enough is None:
            return error, g
        return error, g * over_images(error > self.enough[self.sigmas.index(sigma)], g)

    def _move(self, g: Tensor, mean: Tensor, square: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.move == "adam":
            return super()._move(g, mean, square, k)
        step = self.lrs[k - 1] * math.sqrt(g[0].numel())
        if self.move == "normalised":
            return step * unit(g), mean, square
        mean = MEMORY * mean + (1 - MEMORY) * unit(g)
        return step * mean / (1 - MEMORY**k), mean, square

    def _project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        return super()._project(x if self.kept == 1 else x_adv + self._low(x - x_adv), x_adv)

    def _low(self, displacement: Tensor) -> Tensor:
        """The part (B, C, H, W) of a displacement whose frequencies along both axes are among the lowest."""
        height, width = displacement.shape[-2:]
        rows = torch.fft.fftfreq(height, device=displacement.device).abs() <= self.kept / 2
        columns = torch.fft.rfftfreq(width, device=displacement.device) <= self.kept / 2
        return torch.fft.irfft2(torch.fft.rfft2(displacement) * (rows[:, None] & columns), s=(height, width))


def unit(g: Tensor) -> Tensor:
    """Images (B, C, H, W) of l2 norm 1, with a derivative where they are 0."""
    return g / (over_images(image_norm(g, "l2"), g) + 1e-12)
