"""Statistics of accuracies."""

from __future__ import annotations

from dataclasses import dataclass

from scipy.stats import binomtest

__all__ = ["Accuracy"]


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` images; with the 95 % Wilson interval (Wilson, 1927)."""

    correct: int
    n: int

    @property
    def value(self) -> float:
        """Share of correct images, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % interval, in [0, 1]."""
        bounds = binomtest(self.correct, self.n).proportion_ci(0.95, method="wilson")
        return float(bounds.low), float(bounds.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
