"""COUP's toy world: does guidance by a disturbed classifier keep a point on its side of the boundary?

Reference: Zhang et al. (2024), "Classifier Guidance Enhances Diffusion-Based Adversarial Purification by Preserving
Predictive Information", Proposition 1 and Figure 3.

    data           half N(-1/2, 1), class 0, and half N(1/2, 1), class 1, in centred pixels u = 2 x - 1
    classifier     p(1 | u) = p_1(u) / (p_0(u) + p_1(u) + c sin(100 u) / 100)
    flip           a purification from u = 0.2 that ends below 0 (Figure 3b), or that was below 0 once (Proposition 1)

The purifications are those of the `COUP` purifier with an exact score model, in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion import NoiseSource, ScoreModel
from lit_pursamere.purifiers import COUP
from lit_pursamere.worlds.theory import smooth_mixture_score

__all__ = ["DisturbedClassifier", "Flips", "class_density", "class_probability", "flip_probability"]

MEAN, START = 0.5, 0.2  # centred pixels
CLIP = 1e-6


class Flips(NamedTuple):
    """Shares of the runs that end below 0, and that were below 0 at any step."""

    last: float
    ever: float


def class_density(u: Tensor, label: int) -> Tensor:
    """Density p_label(u) of the class 0 or 1 at centred pixels u; same shape."""
    return torch.distributions.Normal((2 * label - 1) * MEAN, 1.0).log_prob(u).exp()


def class_probability(u: Tensor, c: float) -> Tensor:
    """Evaluate p(1 | u) of the disturbed classifier, clipped to [1e-6, 1 - 1e-6].

    Where the disturbance outweighs a density the formula leaves [0, 1], and its slope is all that is left of it: the
    derivative is that of the formula everywhere, as if nothing had been clipped.

    Args:
        u: Centred pixels, any shape.
        c: Noise level of the classifier, at least 0.

    Returns:
        Probability of class 1, same shape.
    """
    evidence = class_density(u, 1)
    p = evidence / (class_density(u, 0) + evidence + c * torch.sin(100 * u) / 100)
    return p + (p.clamp(CLIP, 1 - CLIP) - p).detach()


class DisturbedClassifier(nn.Module):
    """The classifier of the toy: images (B, 1, 1, 1) in pixel units to logarithms of probabilities (B, 2).

    Args:
        c: Noise level, at least 0; 0 is Bayes' classifier.
    """

    def __init__(self, c: float = 0.0) -> None:
        super().__init__()
        self.c = c

    def forward(self, x: Tensor) -> Tensor:
        p = class_probability(2 * x.flatten(1) - 1, self.c)
        return torch.cat([1 - p, p], dim=1).log()


class BoundaryWatch(ScoreModel):
    """Passes everything on and remembers which images were asked about on the far side of the boundary."""

    def __init__(self, inner: ScoreModel) -> None:
        super().__init__()
        self.inner, self.crossed = inner, torch.tensor(False)

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        self.crossed = self.crossed | (y.flatten() < 0.5)
        return self.inner(y, sigma)


class OwnNoise(NoiseSource):
    """Independent draws for every image at every call, from a generator of its own."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, stream: str, k: int, count: int, like: Tensor) -> Tensor:
        return torch.randn((count, *like.shape), generator=self.generator, dtype=like.dtype)


def flip_probability(lam: float, c: float = 0.0, runs: int = 100_000, seed: int = 0) -> Flips:
    """Estimate how often COUP flips the label of u = 0.2.

    Args:
        lam: Weight lambda of the guidance, at least 0.
        c: Noise level of the classifier, at least 0.
        runs: Number of purifications. An estimate p has a standard error of sqrt(p (1 - p) / runs).
        seed: Seed of the noise. The same seed gives the same noise for every lambda and c.

    Returns:
        Both shares, in [0, 1].
    """
    watch = BoundaryWatch(smooth_mixture_score(((1 - MEAN) / 2, (1 + MEAN) / 2), std=0.5))
    x = torch.full((runs, 1, 1, 1), (START + 1) / 2, dtype=torch.float64)
    last = COUP(watch, DisturbedClassifier(c), lam=lam)(x, OwnNoise(seed)).flatten() < 0.5
    return Flips(last.double().mean().item(), (watch.crossed | last).double().mean().item())
