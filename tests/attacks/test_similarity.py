"""Cosines of averaged gradients: closed form for a linear loss whose slope is Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lit_pursamere.attacks import PGD
from lit_pursamere.attacks.similarity import eot_similarity
from lit_pursamere.threat import ThreatModel

SHAPE, SLOPE = (1, 64, 64), 0.5  # of the mean slope, per pixel; that of a draw has deviation 1 around it
COUNTS = (1, 4, 16, 64)
X, Y = torch.full((2, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0, 1])


def gaussian(seed: int, *size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class NoisySlope(nn.Module):
    """Two classes whose margin is linear; its slope is drawn anew for every image, or once and for all."""

    def __init__(self, seed: int, known: bool = False) -> None:
        super().__init__()
        self.mean, self.known = SLOPE * gaussian(0, *SHAPE), gaussian(seed, *SHAPE) if known else None
        self.generator, self.drawn = torch.Generator().manual_seed(seed), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = self.known
        if noise is None:
            noise = torch.randn(x.shape, generator=self.generator, dtype=x.dtype)
            self.drawn.append(noise)
        margin = ((self.mean + noise) * x).flatten(1).sum(1)
        return torch.stack([-margin / 2, margin / 2], dim=1)


def attack(norm: str, steps: int = 1) -> PGD:
    return PGD(ThreatModel(norm, 0.1), "exact", steps, loss="margin")


@pytest.mark.parametrize(("norm", "factor"), [("l2", 1.0), ("linf", math.sqrt(2 / math.pi))])
def test_cosines_follow_the_variance_of_the_mean(norm, factor):
    """cos = s^2 / sqrt((s^2 + 1 / k) (s^2 + 1)); with the signs of a Gaussian, sqrt(2 / pi) of it."""
    found = eot_similarity(NoisySlope(1), NoisySlope(2, known=True), attack(norm), X, Y, COUNTS)
    expected = [SLOPE**2 / math.sqrt((SLOPE**2 + 1 / k) * (SLOPE**2 + 1)) for k in COUNTS]
    error = 4 / math.sqrt(X[0].numel())  # the known draw's own chance
    for image in range(2):
        assert found.gradient[image].tolist() == pytest.approx(expected, abs=error)
        assert found.direction[image].tolist() == pytest.approx([factor * c for c in expected], abs=error)
    assert expected[-1] - expected[0] > 2 * error


@pytest.mark.parametrize("chunk", [None, 3])
def test_all_disjoint_groups_of_draws_are_averaged(chunk):
    view, reports = NoisySlope(1), []
    known = NoisySlope(2, known=True)
    found = eot_similarity(view, known, attack("l2"), X, Y, (2, 7), chunk, lambda *done: reports.append(done))
    draws = torch.cat([part.unflatten(0, (-1, 2)) for part in view.drawn])  # (7, 2 images, ...)
    for image, sign in ((0, 1.0), (1, -1.0)):  # the other class has the opposite slope
        slopes, reference = sign * (view.mean + draws[:, image]).flatten(1), sign * (known.mean + known.known).flatten()

        def cosine(a, b=reference):
            return (a @ b / (a.norm() * b.norm())).item()

        pairs = sum(cosine(slopes[i : i + 2].mean(0)) for i in (0, 2, 4)) / 3
        assert found.gradient[image].tolist() == pytest.approx([pairs, cosine(slopes.mean(0))], rel=1e-9)
    assert reports == ([(7, 7)] if chunk is None else [(3, 7), (6, 7), (7, 7)])


def test_a_gradient_that_vanishes_counts_as_unlike():
    class Flat(nn.Module):
        def forward(self, x):
            return 0 * x.flatten(1)[:, :2]

    found = eot_similarity(Flat(), NoisySlope(2, known=True), attack("l2"), X, Y, (1, 2))
    assert found.gradient.tolist() == found.direction.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("counts", [(), (0, 1)])
def test_counts_must_be_positive(counts):
    with pytest.raises(ValueError, match=r"at least 1; got \["):
        eot_similarity(NoisySlope(1), NoisySlope(2, known=True), attack("l2"), X, Y, counts)
