"""Accuracies come with 95 % intervals: textbook values, ends of the scale, how they are printed."""

from __future__ import annotations

import math

import pytest
from scipy.stats import binom, binomtest

from lit_pursamere.report import Accuracy
from lit_pursamere.report.statistics import clopper_pearson, wilson

CASES = [(0, 10), (10, 10), (1, 10), (50, 100), (7, 33), (512, 1024), (9_999, 10_000), (1, 1), (0, 1)]


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (50, 100, 0.4038, 0.5962),
        (1, 10, 0.0179, 0.4042),
        (512, 1024, 0.4694, 0.5306),
    ],
)
def test_known_wilson_intervals(correct, n, low, high):
    assert Accuracy(correct, n).interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (1, 10, 0.0025, 0.4450), (50, 100, 0.3983, 0.6017)],
)
def test_known_clopper_pearson_intervals(correct, n, low, high):
    assert clopper_pearson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "n"), CASES)
def test_both_intervals_agree_with_scipy(correct, n):
    for ours, method in ((wilson, "wilson"), (clopper_pearson, "exact")):
        theirs = binomtest(correct, n).proportion_ci(0.95, method)
        assert ours(correct, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@pytest.mark.parametrize("n", [5, 20])
def test_clopper_pearson_covers_at_least_95_percent(n):
    for share in (0.01, 0.1, 0.37, 0.5, 0.9):
        covered = [k for k in range(n + 1) if clopper_pearson(k, n)[0] <= share <= clopper_pearson(k, n)[1]]
        assert sum(binom.pmf(k, n, share) for k in covered) >= 0.95


@pytest.mark.parametrize("n", [1, 7, 48, 1000])
def test_wilsons_interval_solves_his_equation(n):
    for correct in range(0, n + 1, max(1, n // 7)):
        accuracy = Accuracy(correct, n)
        low, high = accuracy.interval
        assert 0 <= low <= accuracy.value <= high <= 1
        for end in (low, high):  # the ends are the p whose own standard error just reaches the observed share
            if 0 < end < 1:
                assert abs(accuracy.value - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)


def test_sums_of_fractions_lie_between_whole_numbers():
    for interval in (wilson, clopper_pearson):
        between = interval(6.5, 10)
        for end in (0, 1):
            assert interval(6, 10)[end] < between[end] < interval(7, 10)[end]


def test_more_images_give_a_narrower_interval():
    widths = [high - low for low, high in (Accuracy(n // 2, n).interval for n in (10, 100, 1000))]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_printed_in_percent():
    assert Accuracy(50, 100).value == 0.5
    assert str(Accuracy(50, 100)) == "50.0 [40.4, 59.6]"
    assert str(Accuracy(0, 10)) == "0.0 [0.0, 27.8]"
    assert str(Accuracy(10, 10)) == "100.0 [72.2, 100.0]"
    assert Accuracy(50, 100).text("clopper-pearson") == "50.0 [39.8, 60.2]"


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (5, 4), (-1, 4)])
def test_impossible_accuracies_are_refused(correct, n):
    with pytest.raises(ValueError, match=f"got {correct} of {n}"):
        Accuracy(correct, n)
