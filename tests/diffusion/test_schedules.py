"""Noise levels fall geometrically between exact ends, and a selection never loses the smallest level it may keep."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lit_pursamere.diffusion import NoiseLevels


def test_the_cifar10_levels():
    sigmas = NoiseLevels().values
    assert len(sigmas) == 232
    assert math.isclose(sigmas[0], 50, rel_tol=1e-9) and math.isclose(sigmas[-1], 0.01, rel_tol=1e-9)
    ratios = [b / a for a, b in itertools.pairwise(sigmas)]
    assert max(ratios) - min(ratios) < 1e-12
    assert abs(ratios[0] - 0.963800) < 5e-7


@pytest.mark.parametrize(("top", "count"), [(1, 125), (0.5, 107), (0.25, 88), (0.1, 63), (0.05, 44), (0.02, 19)])
def test_number_of_levels_at_or_below(top, count):
    sigmas = NoiseLevels(first=top).values
    assert len(sigmas) == count == sum(sigma <= top for sigma in NoiseLevels().values)
    assert sigmas == NoiseLevels().values[-count:]


def test_levels_are_the_recorded_ones(golden_tensors):
    recorded = golden_tensors("ncsnv2/sigmas_cifar10")["sigmas"].double()
    assert torch.allclose(torch.tensor(NoiseLevels().values, dtype=torch.float64), recorded, rtol=1e-6, atol=0)


def test_first_and_last_are_inclusive_in_spite_of_rounding():
    levels = NoiseLevels(sigma_max=10.0, sigma_min=0.001, count=5)
    assert len(levels.values) == 5
    kept = NoiseLevels(sigma_max=10.0, sigma_min=0.001, count=5, first=1.0, last=0.01).values
    assert kept == levels.values[1:4]
    assert kept == pytest.approx((1.0, 0.1, 0.01))


def test_a_stride_keeps_the_smallest_level():
    everything = NoiseLevels().values
    for stride in (2, 4, 7):
        kept = NoiseLevels(stride=stride).values
        assert kept == tuple(everything[i] for i in range(232) if (231 - i) % stride == 0)
    assert NoiseLevels(stride=1000).values == everything[-1:]
    assert NoiseLevels(first=1.0, last=0.02, stride=3).values[-1] == NoiseLevels(last=0.02).values[-1]


def test_one_level_is_the_largest():
    assert NoiseLevels(sigma_max=0.5, sigma_min=0.5, count=1).values == (0.5,)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"sigma_min": 0.0}, "0.0, 50"),
        ({"sigma_min": -1.0}, "-1.0"),
        ({"sigma_min": 60.0}, "60.0"),
        ({"sigma_min": math.nan}, "nan"),
        ({"sigma_max": math.inf}, "inf"),
        ({"count": 0}, "got 0 and 1"),
        ({"stride": 0}, "got 232 and 0"),
        ({"first": 0.001}, "first=0.001"),
        ({"last": 51.0}, "last=51.0"),
        ({"first": 0.1, "last": 0.2}, "first=0.1 and last=0.2"),
        ({"first": math.nan}, "first=nan"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value):
        NoiseLevels(**arguments)
