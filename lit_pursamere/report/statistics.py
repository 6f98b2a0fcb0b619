"""Accuracies and their 95 % intervals.

References: Wilson (1927), the score interval, short and close to 95 %; Clopper and Pearson (1934), the exact interval,
which never covers less than 95 % and is therefore wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from scipy.special import betaincinv, ndtri

__all__ = ["INTERVALS", "Accuracy", "clopper_pearson", "wilson"]

LEVEL = 0.95


def wilson(correct: float, n: int) -> tuple[float, float]:
    """Ends of the 95 % Wilson interval of a share, in [0, 1].

    Args:
        correct: Correct images, in [0, n]; may be a sum of fractions.
        n: Images, at least 1.
    """
    z = float(ndtri((1 + LEVEL) / 2))
    share = correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    spread = math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) * z / (1 + z**2 / n)
    low = centre - spread if correct > 0 else 0.0  # the ends of the scale are exact, but for rounding
    return low, centre + spread if correct < n else 1.0


def clopper_pearson(correct: float, n: int) -> tuple[float, float]:
    """Ends of the 95 % Clopper-Pearson interval of a share, in [0, 1]; quantiles of beta distributions.

    Args:
        correct: Correct images, in [0, n]; may be a sum of fractions.
        n: Images, at least 1.
    """
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(correct, n - correct + 1, tail)) if correct > 0 else 0.0
    return low, float(betaincinv(correct + 1, n - correct, 1 - tail)) if correct < n else 1.0


INTERVALS: dict[str, Callable[[float, int], tuple[float, float]]] = {
    "wilson": wilson,
    "clopper-pearson": clopper_pearson,
}


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` images, with 95 % intervals.

    `correct` may be a sum of fractions, means over repeated verdicts; the interval then is on the safe side.

    Args:
        correct: Correct images, in [0, n].
        n: Images, at least 1.

    Raises:
        ValueError: If there are no images, or more correct ones than images.
    """

    correct: float
    n: int

    def __post_init__(self) -> None:
        if self.n < 1 or not 0 <= self.correct <= self.n * (1 + 1e-12):
            raise ValueError(f"an accuracy needs n >= 1 images and 0 to n correct ones; got {self.correct} of {self.n}")

    @property
    def value(self) -> float:
        """Share of correct images, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the Wilson interval, in [0, 1]."""
        return wilson(self.correct, self.n)

    def text(self, interval: str = "wilson") -> str:
        """The accuracy in % with one of INTERVALS, "82.5 [76.6, 87.1]"."""
        low, high = INTERVALS[interval](self.correct, self.n)
        return f"{100 * self.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    def __str__(self) -> str:
        return self.text()
