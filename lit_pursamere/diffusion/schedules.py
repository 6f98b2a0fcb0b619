"""Noise levels: which standard deviations there are, and how those of different families correspond.

References: Song & Ermon (2020), techniques 1 and 2 (geometric levels; CIFAR-10: 232 from 50 to 0.01); Ho et al. (2020),
linear beta schedule; Song et al. (2021), VP-SDE; Karras et al. (2022), eq. 5.

    variance exploding    y = x + sigma xi,  x in [0, 1]
    centred               u + sigma_u xi,    u = 2 x - 1, so sigma_u = 2 sigma
    variance preserving   sqrt(alpha_bar) u + sqrt(1 - alpha_bar) xi, so alpha_bar = 1 / (1 + sigma_u^2)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from lit_pursamere.host import onto

__all__ = [
    "VP", "NoiseLevels", "ReverseStep", "VariancePreserving", "decreasing_levels", "karras_levels", "largest_distance",
]  # fmt: skip


MOST_LEVELS = 1_000_000


@dataclass(frozen=True)
class NoiseLevels:
    """A geometric sequence of noise levels sigma, largest first, of which a part can be selected.

    Args:
        sigma_max: Largest level.
        sigma_min: Smallest level, above 0.
        count: Number of levels of the full sequence, up to a million.
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
        if not 1 <= self.count <= MOST_LEVELS or self.stride < 1:
            raise ValueError(
                f"NoiseLevels needs a count from 1 to {MOST_LEVELS:,} and stride >= 1; got {self.count}, {self.stride}"
            )
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

    @property
    def ratio(self) -> float:
        """Quotient of neighbouring levels of the full sequence, above 1."""
        return (self.sigma_max / self.sigma_min) ** (1 / max(self.count - 1, 1))

    @classmethod
    def from_data(cls, diameter: float, dimension: int, sigma_min: float = 0.01, overlap: float = 0.5) -> NoiseLevels:
        """Choose the levels of a data set by the rules of Song & Ermon (2020), techniques 1 and 2.

        Args:
            diameter: Largest l2 distance between two training images, the largest level.
            dimension: Pixel values d = C * H * W of an image.
            sigma_min: Smallest level.
            overlap: Probability mass that neighbouring levels share, Phi(sqrt(2d)(g-1) + 3g) - Phi(sqrt(2d)(g-1) - 3g)
                for the ratio g of the levels; in (0, 1).

        Returns:
            Levels from the diameter to sigma_min with at least this overlap.
        """
        if not sigma_min < diameter < math.inf or dimension < 1 or not 0 < overlap < 0.99:
            raise ValueError(
                "NoiseLevels.from_data needs sigma_min < diameter, dimension >= 1 and overlap in (0, 0.99); "
                f"got {sigma_min}, {diameter}, {dimension}, {overlap}"
            )
        low, high = 1.0, 2.0
        while shared_mass(high, dimension) > overlap:
            high *= 2
        for _ in range(60):  # bisection: the overlap falls with the ratio
            middle = (low + high) / 2
            low, high = (middle, high) if shared_mass(middle, dimension) > overlap else (low, middle)
        return cls(diameter, sigma_min, 1 + math.ceil(math.log(diameter / sigma_min) / math.log(high)))


def decreasing_levels(owner: str, sigmas: NoiseLevels | Sequence[float]) -> tuple[float, ...]:
    """Noise levels as numbers in pixel units, sigma_1 > ... > sigma_L > 0.

    Args:
        owner: Who needs them, for the error.
        sigmas: A `NoiseLevels` or an explicit list.

    Raises:
        ValueError: Unless there is a level, and all are positive, finite and strictly decreasing.
    """
    levels = tuple(sigmas.values if isinstance(sigmas, NoiseLevels) else sigmas)
    falling = all(higher > lower for higher, lower in pairwise(levels))
    if not levels or not falling or not 0 < levels[-1] <= levels[0] < math.inf:
        raise ValueError(f"{owner} needs positive, decreasing sigmas; got {list(levels)[:8]}")
    return levels


def largest_distance(images: Tensor, block: int = 2048, progress: Callable[[int, int], None] | None = None) -> float:
    """Largest l2 distance between two of N images (N, C, H, W) in [0, 1]; exact, at N^2 d multiplications.

    Args:
        images: The images, on the device that shall compute.
        block: Images that are compared at once, which bounds the memory.
        progress: Called with (blocks done, blocks in all).
    """
    if len(images) < 2:
        raise ValueError(f"a largest distance needs two images; got {len(images)}")
    parts = images.flatten(1).split(block)
    squares, largest = [part.square().sum(1) for part in parts], 0.0
    for done, (a, left) in enumerate(zip(parts, squares, strict=True), start=1):
        for b, right in zip(parts[done - 1 :], squares[done - 1 :], strict=True):
            largest = max(largest, float((left[:, None] + right - 2 * a @ b.T).max()))
        if progress is not None:
            progress(done, len(parts))
    return math.sqrt(max(largest, 0.0))


def shared_mass(ratio: float, dimension: int) -> float:
    """How much of the norm of one level's noise falls within three deviations of its neighbour's, for a level ratio."""
    gap = math.sqrt(2 * dimension) * (ratio - 1)
    phi: Callable[[float], float] = lambda z: (1 + math.erf(z / math.sqrt(2))) / 2  # noqa: E731
    return phi(gap + 3 * ratio) - phi(gap - 3 * ratio)


class ReverseStep(NamedTuple):
    """One Euler step back in time: from t to t - dt, with beta and the signal power at t."""

    t: float
    dt: float
    beta: float
    alpha_bar: float


@dataclass(frozen=True)
class VariancePreserving:
    """The linear-beta schedule of DDPM and of the VP-SDE, for centred pixels.

    Continuous: beta(t) = beta_min + t (beta_max - beta_min) for t in [0, 1]. Discrete: `steps` betas, equally spaced
    between beta_min / steps and beta_max / steps; index i = 0 .. steps - 1 is close to time (i + 1) / steps.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    steps: int = 1000

    def beta(self, t: float) -> float:
        """Rate at time t at which noise comes in."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def alpha_bar(self, t: Tensor) -> Tensor:
        """Signal power at time t."""
        return torch.exp(-0.5 * (self.beta_max - self.beta_min) * t**2 - self.beta_min * t)

    def sigma_of_time(self, t: Tensor) -> Tensor:
        """Noise level sigma_u = sqrt(1 / alpha_bar - 1) at time t."""
        return torch.expm1(0.5 * (self.beta_max - self.beta_min) * t**2 + self.beta_min * t).sqrt()

    def time_of_sigma(self, sigma_u: Tensor) -> Tensor:
        """Time t at which the noise level is sigma_u; above 1 for levels beyond the schedule."""
        # The root of 1/2 slope t^2 + beta_min t = power in the form that does not cancel for small levels.
        slope, power = self.beta_max - self.beta_min, torch.log1p(sigma_u**2)
        return 2 * power / ((self.beta_min**2 + 2 * slope * power).sqrt() + self.beta_min)

    def reverse_steps(self, t_star: float, t_end: float, dt: float) -> tuple[ReverseStep, ...]:
        """Steps of length dt from time t_star down to t_end; the last one is shortened where dt does not fit.

        Raises:
            ValueError: Unless 0 <= t_end < t_star <= 1 and dt > 0.
        """
        if not (0 <= t_end < t_star <= 1 and dt > 0):
            raise ValueError(f"reverse steps need 0 <= t_end < t_star <= 1 and dt > 0; got {t_end}, {t_star} and {dt}")
        times = [t_star - k * dt for k in range(math.ceil((t_star - t_end) / dt - 1e-6))]
        powers = self.alpha_bar(torch.tensor(times, dtype=torch.float64)).tolist()
        ends = [*times[1:], t_end]
        return tuple(
            ReverseStep(t, t - end, self.beta(t), power) for t, end, power in zip(times, ends, powers, strict=True)
        )

    def start(self, t_star: float, table: str = "discrete") -> float:
        """Signal power at which a purification from time t_star starts.

        Args:
            t_star: Time in (0, 1].
            table: `discrete`: entry steps * t_star - 1 of the table, as the released codes do. `continuous`: at t_star.

        Raises:
            ValueError: If the time is out of range, or the table unknown.
        """
        if not 0 < t_star <= 1 or (table == "discrete" and round(self.steps * t_star) < 1):
            raise ValueError(
                f"a start needs t_star in (0, 1], and 1 / {self.steps} at least in the table; got {t_star}"
            )
        if table == "discrete":
            return self.alpha_bar_table[round(self.steps * t_star) - 1].item()
        if table == "continuous":
            return self.alpha_bar(torch.tensor(t_star, dtype=torch.float64)).item()
        raise ValueError(f"the start must be 'discrete' or 'continuous'; got {table!r}")

    @cached_property
    def alpha_bar_table(self) -> Tensor:
        """Signal power (steps,) at every index, float64, on the CPU even where another device is the default."""
        low, high = self.beta_min / self.steps, self.beta_max / self.steps
        return torch.cumprod(1 - torch.linspace(low, high, self.steps, dtype=torch.float64, device="cpu"), 0)

    @cached_property
    def sigma_table(self) -> Tensor:
        """Noise level sigma_u (steps,) at every index, increasing, float64."""
        return (1 / self.alpha_bar_table - 1).sqrt()

    def index_of_sigma(self, sigma_u: Tensor) -> Tensor:
        """Fractional index at which the noise level is sigma_u, linear in ln sigma_u, within [0, steps - 1]."""
        grid = onto(self.sigma_table.log(), sigma_u.device, sigma_u.dtype)
        log = sigma_u.log().clamp(grid[0], grid[-1])
        right = torch.searchsorted(grid, log.contiguous()).clamp(1, self.steps - 1)
        left = right - 1
        return left + (log - grid[left]) / (grid[right] - grid[left])


VP = VariancePreserving()  # the schedule that DDPM's and the VP-SDE's released networks were trained with


def karras_levels(count: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> tuple[float, ...]:
    """Levels equally spaced in sigma^(1/rho), decreasing (Karras et al., 2022, eq. 5; defaults for centred pixels)."""
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return tuple((high + i / (count - 1) * (low - high)) ** rho for i in range(count))
