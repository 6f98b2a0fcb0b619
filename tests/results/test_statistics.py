"""Accuracies come with the 95 % Wilson interval: textbook values, ends of the scale, how they are printed."""

from __future__ import annotations

import math

import pytest

from lit_pursamere.results import Accuracy


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
def test_known_intervals(correct, n, low, high):
    assert Accuracy(correct, n).interval == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("n", [1, 7, 48, 1000])
def test_interval_solves_wilsons_equation(n):
    for correct in range(0, n + 1, max(1, n // 7)):
        accuracy = Accuracy(correct, n)
        low, high = accuracy.interval
        assert 0 <= low <= accuracy.value <= high <= 1
        for end in (low, high):  # the ends are the p whose own standard error just reaches the observed share
            if 0 < end < 1:
                assert abs(accuracy.value - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-5)


def test_more_images_give_a_narrower_interval():
    widths = [high - low for low, high in (Accuracy(n // 2, n).interval for n in (10, 100, 1000))]
    assert widths[0] > 2 * widths[1] > 4 * widths[2]


def test_printed_in_percent():
    assert Accuracy(50, 100).value == 0.5
    assert str(Accuracy(50, 100)) == "50.0 [40.4, 59.6]"
    assert str(Accuracy(0, 10)) == "0.0 [0.0, 27.8]"
    assert str(Accuracy(10, 10)) == "100.0 [72.2, 100.0]"
