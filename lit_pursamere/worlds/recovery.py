"""Minimisers of the reconstruction error recover maximisers of the density, where the score is piecewise affine.

Reference: PurSAMERE (Hoang et al., 2026), Theorem 1, its formal version Theorem 2, and Lemmas 2 and 3.

    Lemma 2     |E 1{x + sigma Xi not in D} g(Xi)| <= C exp(-d/4 (radius/sigma - 1)^2),       E g(Xi)^2 <= C^2
    Lemma 3     a minimiser of x^T H x + g(x), |g| <= eps, H >= mu, lies within sqrt(2 eps / mu)
    Theorem 2   |argmin R - argmax f| <= sqrt(2 C) / (sigma mu) exp(-d/8 (radius/sigma - 1)^2)

The score of the theorem's world is s(x) = -clip(4 (x - 1/2), -1, 2) in every pixel: affine on D = [1/4, 1]^d with
mu = 4 and its maximum at 1/2, and not symmetric, without which nothing would be displaced. There R is known, and its
minimiser in closed form up to one equation. Where the paper writes sqrt(C), its proof has sqrt(2 C), with the C of
Lemma 2: that is what is computed here.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from scipy import special
from torch import Tensor

from lit_pursamere.diffusion import ScoreModel

__all__ = [
    "PiecewiseAffine", "displaced_minimiser", "lemma_2_bound", "lemma_3_bound", "minimiser_error",
    "sharpest_disturbance", "tail_moment", "theorem_2_bound",
]  # fmt: skip

MU, CENTRE, LOW, HIGH = 4.0, 0.5, 0.25, 1.0
RADIUS = 0.2  # D without a margin of this width is [0.45, 0.8], and the maximum lies in it


class PiecewiseAffine(ScoreModel):
    """s(x) = -clip(4 (x - 1/2), -1, 2) for every pixel: the score of a concave potential with its maximum at 1/2."""

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        return sigma * (MU * (y - CENTRE)).clamp(MU * (LOW - CENTRE), MU * (HIGH - CENTRE))


def tail_moment(ratio: float, dimension: int, power: int = 0) -> float:
    """Compute E 1{|Xi| >= ratio sqrt(d)} |Xi|^(2 power) of d standard normal numbers.

    That is the left-hand side of Lemma 2 for D a ball of radius ratio sigma sqrt(d) around x, which holds the least
    of all sets allowed, and g(xi) = |xi|^(2 power); at ratio 0 it is a moment, and C^2 = tail_moment(0, d, 2 power).

    Args:
        ratio: Radius over noise level, at least 0.
        dimension: Number d of pixels.
        power: Half the exponent of the length.
    """
    half = dimension / 2
    moment = math.exp(power * math.log(2) + special.gammaln(half + power) - special.gammaln(half))
    return moment * float(special.gammaincc(half + power, half * ratio**2))


def lemma_2_bound(ratio: float, dimension: int) -> float:
    """Right-hand side of Lemma 2 at C = 1, for ratio = radius / sigma of at least 1."""
    return math.exp(-dimension / 4 * (ratio - 1) ** 2)


def displaced_minimiser(hessian: Tensor, disturbance: Tensor, points: Tensor) -> float:
    """Find how far from 0 the minimiser of x^T H x + g(x) lies, on a grid.

    Args:
        hessian: Symmetric, positive definite H (d, d).
        disturbance: Values of g (N,).
        points: Where they are taken (N, d).
    """
    values = ((points @ hessian) * points).sum(1) + disturbance
    return float(points[values.argmin()].norm())


def lemma_3_bound(eps: float, mu: float) -> float:
    """Farthest that a minimiser can be displaced: sqrt(2 eps / mu), for |g| <= eps and H >= mu."""
    return math.sqrt(2 * eps / mu)


def sharpest_disturbance(distance: Tensor, eps: float, mu: float, share: float = 0.98) -> Tensor:
    """The g that displaces the minimiser of mu |x|^2 to `share` of the bound: eps around 0, and a steep fall to -eps.

    Args:
        distance: |x|, any shape.
        eps: Largest |g|.
        mu: Curvature.
        share: Of the bound, in (0.9, 1).
    """
    radius = share * lemma_3_bound(eps, mu)
    return eps * (1 - 100 * (distance / radius - 0.98)).clamp(-1, 1)


def minimiser_error(sigma: float, dimension: int = 1) -> float:
    """Compute |argmin R - argmax f| over the part of D where Theorem 2 looks, to all digits.

    R is a sum over the pixels. Its derivative in one of them vanishes at 1/2 + delta, where with the noise levels
    a, b at which x + sigma xi leaves D, phi and Phi the normal density and its integral,

        delta = (1 - mu sigma^2) (phi(a) - phi(b)) / (mu sigma (Phi(b) - Phi(a)))

    Args:
        sigma: Noise level in pixel units, below 1 / sqrt(mu) and at most RADIUS.
        dimension: Number of pixels.
    """

    def excess(delta: float) -> float:
        a, b = (LOW - CENTRE - delta) / sigma, (HIGH - CENTRE - delta) / sigma
        inside = special.ndtr(b) - special.ndtr(a)
        return delta - (1 - MU * sigma**2) * (_density(a) - _density(b)) / (MU * sigma * inside)

    low, high = 0.0, HIGH - RADIUS - CENTRE
    for _ in range(120):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return math.sqrt(dimension) * low


def theorem_2_bound(sigma: float) -> float:
    """Right-hand side of Theorem 2 in one dimension, with the constant that its proof asks for.

    C^2 is the largest second moment, over noise levels up to RADIUS and places in D without its margin, of what R
    would differ by if the score were affine everywhere.

    Args:
        sigma: Noise level in pixel units, in (0, RADIUS].
    """
    return math.sqrt(2 * _constant()) / (sigma * MU) * math.exp(-((RADIUS / sigma - 1) ** 2) / 8)


def _density(xi: Any) -> Any:
    return np.exp(-(xi**2) / 2) / math.sqrt(2 * math.pi)


@cache
def _constant() -> float:
    xi = np.linspace(-10, 10, 4001)
    weights = _density(xi) * (xi[1] - xi[0])
    moments = []
    for sigma in np.linspace(RADIUS / 20, RADIUS, 20):
        for x in (LOW + RADIUS, CENTRE, HIGH - RADIUS):
            affine = -MU * (x + sigma * xi - CENTRE)
            clipped = np.clip(affine, -MU * (HIGH - CENTRE), -MU * (LOW - CENTRE))
            gap = (xi + sigma * clipped) ** 2 - (xi + sigma * affine) ** 2
            moments.append(float(gap**2 @ weights))
    return math.sqrt(max(moments))
