"""Statistics of accuracies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import norm

__all__ = ["Accuracy"]


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` images; with the 95 % Wilson interval (Wilson, 1927).

    `correct` may be a sum of fractions, means over repeated verdicts; the interval then is on the safe side.
    """

    correct: float
    n: int

    @property
    def value(self) -> float:
        """Share of correct images, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % interval, in [0, 1]."""
        z = float(norm.ppf(0.975))
        centre = (self.value + z**2 / (2 * self.n)) / (1 + z**2 / self.n)
        spread = math.sqrt(self.value * (1 - self.value) / self.n + z**2 / (4 * self.n**2)) * z / (1 + z**2 / self.n)
        low = centre - spread if self.correct > 0 else 0.0  # the ends of the scale are exact, but for rounding
        return low, centre + spread if self.correct < self.n else 1.0

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
