"""Certificates hold where the truth is known: a linear classifier, a binomial world, attacks on what is smoothed."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import binom, binomtest, norm
from torch import nn

from lit_pursamere.attacks import PGD
from lit_pursamere.defense import Defense
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.evaluation.certification import ABSTAIN, Certification, lower_bound, p_value
from lit_pursamere.evaluation.judge import judge
from lit_pursamere.purifiers import DP_DDIM, DenoisedSmoothing
from lit_pursamere.purifiers.smoothing import SmoothedPurifier
from lit_pursamere.threat import ThreatModel

SIGMA, SHAPE = 0.04, (1, 1, 2, 2)  # so small that no noisy image of the middle of the box is clipped
DIRECTION = torch.tensor([0.6, -0.2, 0.3, 0.4])


class NoNoise(ScoreModel):
    """Leaves noisy images as they are."""

    def forward(self, y, sigma):
        return torch.zeros_like(y)


class HalfSpace(nn.Module):
    """Class 1 on one side of a plane through the middle of the box, class 0 on the other."""

    def forward(self, x):
        margin = (x - 0.5).flatten(1) @ DIRECTION
        return torch.stack([torch.zeros_like(margin), margin], 1)


class Ripples(nn.Module):
    """Three classes whose borders are curved."""

    def forward(self, x):
        a, b = x.flatten(1)[:, :2].T
        return torch.stack([torch.sin(12 * a) + b, torch.cos(11 * b), torch.sin(9 * (a + b)) + 0.3], 1)


def smoothed(classifier=None, **ensemble):
    return Defense(DenoisedSmoothing(NoNoise(), SIGMA), classifier or HalfSpace(), Ensemble(**ensemble))


def at(distance):
    """An image at this distance from the plane."""
    return (0.5 + distance * DIRECTION / DIRECTION.norm()).reshape(SHAPE)


def certified(distance, asked, index=0, seed=0, slots=4096):
    return asked.certify(smoothed(), SIGMA, at(distance), index, seed, slots)


def test_the_radius_of_a_linear_classifier_is_met_from_below():
    gaps = []
    for n in (100, 1000, 100_000):
        found = [certified(k * SIGMA / 2, Certification(n=n), index=k) for k in (1, 2, 3)]
        gaps.append([k / 2 - (one.radius or 0.0) / SIGMA for k, one in zip((1, 2, 3), found, strict=True)])
    assert all(gap > 0 for row in gaps for gap in row)
    assert max(gaps[2]) < 0.03 < 0.08 < max(gaps[1]) < max(gaps[0])


def test_no_more_certificates_than_alpha_are_too_large():
    alpha, images, distance = 0.1, 300, 0.8 * SIGMA
    found = [certified(distance, Certification(20, 200, alpha), index=k, slots=220) for k in range(images)]
    wrong = sum((one.radius or 0.0) > distance for one in found)
    assert wrong <= binom.ppf(0.9999, images, alpha)
    assert wrong > 0.2 * alpha * images  # the bound is no tighter than it need be


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize("n", [10, 137, 1000])
@pytest.mark.parametrize("p", [0.3, 0.5, 0.93, 0.999])
def test_the_bound_is_above_the_truth_with_probability_alpha_at_most(alpha, n, p):
    above = [k for k in range(n + 1) if lower_bound(k, n, alpha) > p]
    assert binom.pmf(above, n, p).sum() <= alpha * (1 + 1e-9)


def test_bounds_and_p_values_are_those_of_scipy():
    for count, n, alpha in ((0, 10, 0.01), (7, 10, 0.05), (10, 10, 0.001), (990, 1000, 0.001)):
        expected = binomtest(count, n).proportion_ci(1 - 2 * alpha, "exact").low  # one-sided, from a two-sided one
        assert lower_bound(count, n, alpha) == pytest.approx(expected, abs=1e-9)
    for first, second in ((8, 2), (500, 500), (61, 40), (3, 0)):
        assert p_value(first, second) == pytest.approx(binomtest(first, first + second).pvalue)
    assert p_value(0, 0) == 1.0


def test_it_abstains_near_one_half():
    found = [certified(0.0, Certification(n=500), index=k, slots=600) for k in range(40)]
    assert sum(one.radius is not None for one in found) <= 1
    assert sum(one.prediction != ABSTAIN for one in found) <= 1
    sure = certified(3 * SIGMA, Certification(n=500))
    assert (sure.selected, sure.prediction) == (1, 1) and sure.radius is not None


def test_counts_become_certificates():
    asked = Certification(n=1000)
    one = asked.certificate(2, torch.tensor([1, 0, 999]), 0.5)
    assert (one.selected, one.count, one.prediction) == (2, 999, 2)
    assert one.radius == pytest.approx(0.5 * norm.ppf(lower_bound(999, 1000, 0.001)))
    lost = asked.certificate(0, torch.tensor([400, 600, 0]), 0.5)  # other draws chose the wrong class
    assert (lost.selected, lost.count, lost.radius, lost.prediction) == (0, 400, None, 1)


def test_the_noise_is_a_function_of_seed_image_and_draw():
    asked = Certification(10, 500)
    whole = certified(0.5 * SIGMA, asked, index=3)
    for slots in (7, 64, 1000):
        assert certified(0.5 * SIGMA, asked, index=3, slots=slots) == whole
    others = [certified(0.5 * SIGMA, asked, index=4), certified(0.5 * SIGMA, asked, index=3, seed=1)]
    assert all(other.count != whole.count for other in others)
    assert whole.count == certified(0.5 * SIGMA, Certification(10, 500, 0.01), index=3).count <= 500
    few = Certification(500, 10).certify(smoothed(), SIGMA, at(9 * SIGMA), 3, 0, 510)
    assert few.count == 10 and whole.count > 300  # what chose the class is not counted


def test_draws_are_independent_of_each_other_and_of_what_the_purifier_draws(mixture):
    """Each draw is a normal image, and a purifier behind it draws another one than the noise that it gets."""
    seen = []

    class Spy(DP_DDIM):
        def purify(self, x, noise):
            seen.append((x, noise.draw("forward", 0, 1, x)[0]))
            return x.clamp(0, 1)

    defense = Defense(SmoothedPurifier(Spy(mixture), 0.5), HalfSpace())
    Certification(1, 4000, 0.001).certify(defense, 0.5, at(0.0), 0, 0, 4001)
    ((y, inner),) = seen
    xi = (y - at(0.0)) / 0.5
    assert y.min() < -0.3 and y.max() > 1.3  # not clipped
    for draws in (xi, inner):
        assert abs(draws.mean()) < 0.03 and abs(draws.std() - 1) < 0.03
        assert len(draws.flatten(1).unique(dim=0)) == len(draws)
    assert abs((xi * inner).mean()) < 0.04 and abs((xi[1:] * xi[:-1]).mean()) < 0.04


def test_no_attack_on_the_smoothed_classifier_gets_below_the_certified_accuracy():
    x = torch.rand(14, *SHAPE[1:], generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    asked, index = Certification(50, 1000), torch.arange(14)
    found = [asked.certify(smoothed(Ripples()), SIGMA, x[k : k + 1], k, 0, 1050) for k in range(14)]
    y = torch.tensor([one.selected for one in found])
    votes = smoothed(Ripples(), copies=200, average="votes", attacked=16)
    broken = []
    for eps in (0.02, 0.04, 0.06):
        outcome = PGD(ThreatModel("l2", eps), "exact", 6)(votes.view("exact"), x, y)
        right = judge(votes, outcome.last, y, 1, 14, index).prediction == y
        holds = torch.tensor([(one.radius or 0.0) >= eps for one in found])
        assert right[holds].all(), eps
        broken.append(int((~right).sum()))
    assert 0 < int(holds.sum()) < 14 and broken[0] < broken[-1]  # neither idle: attacks break what is not certified


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"n0": 0}, "n0 >= 1 and n >= 1 draws; got 0 and 10000"),
        ({"n": 0}, "n0 >= 1 and n >= 1 draws; got 100 and 0"),
        ({"alpha": 0.0}, r"in \(0, 1\); got 0.0"),
        ({"alpha": math.nan}, r"in \(0, 1\); got nan"),
        ({"n": 9}, "with n = 9 draws nothing can be certified at alpha = 0.001.*take n >= 10"),
    ],
)
def test_nonsense_is_refused(settings, line):
    with pytest.raises(ValueError, match=line):
        Certification(**settings)
    Certification(n=10)
