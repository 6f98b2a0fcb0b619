"""Noise levels: geometric sequences of standard deviations, in pixel units of [0, 1] images.

Reference: Song & Ermon (2020), technique 2; CIFAR-10 uses 232 levels from 50 to 0.01.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["NoiseLevels"]


@dataclass(frozen=True)
class NoiseLevels:
    """A geometric sequence of noise levels sigma, largest first, of which a part can be selected.

    Args:
        sigma_max: Largest level.
        sigma_min: Smallest level, above 0.
        count: Number of levels of the full sequence.
        first: Use only levels at or below this one (None: from sigma_max).
        last: Use only levels at or above this one (None: down to sigma_min).
        stride: Use every stride-th of the remaining levels; the smallest of them is always kept.

    Raises:
        ValueError: If the levels are not ordered, not positive, or nothing remains.
    """

    sigma_max: float = 50.0
    sigma_min: float = 0.01
    count: int = 232
    first: float | None = None
    last: float | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min <= self.sigma_max < math.inf:
            raise ValueError(f"NoiseLevels needs 0 < sigma_min <= sigma_max; got {self.sigma_min}, {self.sigma_max}")
        if self.count > 1 and self.sigma_min == self.sigma_max:
            raise ValueError(f"NoiseLevels cannot spread {self.count} levels between equal ends; got {self.sigma_max}")
        if self.count < 1 or self.stride < 1:
            raise ValueError(f"NoiseLevels needs count >= 1 and stride >= 1; got {self.count} and {self.stride}")
        if not self.values:
            raise ValueError(f"NoiseLevels keeps no level between first={self.first} and last={self.last}: {self}")

    @property
    def values(self) -> tuple[float, ...]:
        """The selected levels, strictly decreasing (sigma_1 > ... > sigma_L)."""
        steps = max(self.count - 1, 1)
        ratio = self.sigma_min / self.sigma_max
        levels = [self.sigma_max * ratio ** (i / steps) for i in range(self.count)]
        slack = 1e-9  # so that first=1.0 keeps a level that rounds to 1.0000000001
        top = math.inf if self.first is None else self.first * (1 + slack)
        bottom = 0.0 if self.last is None else self.last * (1 - slack)
        kept = [sigma for sigma in levels if bottom <= sigma <= top]
        return tuple(kept[::-1][:: self.stride][::-1])
