"""Noise levels fall geometrically between exact ends, and a selection never loses the smallest level it may keep."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lit_pursamere.diffusion import NoiseLevels, VariancePreserving
from lit_pursamere.diffusion.schedules import decreasing_levels, karras_levels, largest_distance, shared_mass


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
        ({"count": 0}, "got 0, 1"),
        ({"stride": 0}, "got 232, 0"),
        ({"first": 0.001}, "first=0.001"),
        ({"last": 51.0}, "last=51.0"),
        ({"first": 0.1, "last": 0.2}, "first=0.1 and last=0.2"),
        ({"first": math.nan}, "first=nan"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value):
        NoiseLevels(**arguments)


VP = VariancePreserving()


@pytest.mark.parametrize(
    ("index", "alpha_bar", "sigma_u"), [(99, 0.89702, 0.3388), (100, 0.89514, 0.3423), (36, 0.98317, 0.1308)]
)
def test_discrete_reference_values(index, alpha_bar, sigma_u):
    assert VP.alpha_bar_table[index].item() == pytest.approx(alpha_bar, abs=6e-6)
    assert VP.sigma_table[index].item() == pytest.approx(sigma_u, abs=6e-5)


@pytest.mark.parametrize(
    ("t", "alpha_bar", "sigma_u"),
    [(0.075, 0.93850, 0.2560), (0.1, 0.89628, 0.3402), (0.125, 0.84538, 0.4277), (0.2, 0.65836, 0.7204)],
)
def test_continuous_reference_values(t, alpha_bar, sigma_u):
    t = torch.tensor(t, dtype=torch.float64)
    assert VP.alpha_bar(t).item() == pytest.approx(alpha_bar, abs=6e-6)
    assert VP.sigma_of_time(t).item() == pytest.approx(sigma_u, abs=6e-5)


def test_alpha_bars_are_recorded(golden_tensors):
    recorded = golden_tensors("score_sde/ddpmpp_small_io")["alphas_cumprod"].double()
    assert torch.allclose(VP.alpha_bar_table, recorded, rtol=1e-5, atol=1e-9)


def test_time_and_level_are_inverse_and_consistent_with_signal_power():
    t = torch.linspace(1e-5, 1, 200, dtype=torch.float64)
    sigma = VP.sigma_of_time(t)
    assert torch.allclose(VP.time_of_sigma(sigma), t, rtol=1e-9)
    assert torch.allclose(1 / (1 + sigma**2), VP.alpha_bar(t), rtol=1e-12)


def test_recorded_times_of_levels(golden_tensors):
    data = golden_tensors("edm/songunet_small")
    sigma = data["vp.sigma_of_t"].double()
    ours = VP.sigma_of_time(data["vp.t"].double())
    assert torch.allclose(ours[1:], sigma[1:], rtol=1e-5)  # the first one was recorded with cancellation in float32
    assert torch.allclose(ours[:1], sigma[:1], rtol=0.03)
    assert torch.allclose(VP.time_of_sigma(sigma), data["vp.t_of_sigma"].double(), rtol=1e-5, atol=1e-6)
    assert torch.allclose(
        999 * VP.time_of_sigma(data["sigma"].double()), data["vp.c_noise"].double(), rtol=1e-5, atol=1e-3
    )


def test_index_of_a_level_is_exact_on_the_table_between_in_between_and_clamped_outside():
    index = torch.tensor([0, 1, 99, 500, 999])
    assert torch.allclose(VP.index_of_sigma(VP.sigma_table[index]), index.double(), atol=1e-6)
    middle = (VP.sigma_table[10] * VP.sigma_table[11]).sqrt()
    assert VP.index_of_sigma(middle).item() == pytest.approx(10.5)
    outside = VP.index_of_sigma(torch.tensor([0.0, 1e-6, 1e6], dtype=torch.float64))
    assert outside.tolist() == [0, 0, 999]


def test_karras_levels_have_exact_ends_and_even_roots():
    levels = karras_levels(18)
    assert len(levels) == 18 and levels[0] == pytest.approx(80) and levels[-1] == pytest.approx(0.002)
    roots = [level ** (1 / 7) for level in levels]
    steps = [b - a for a, b in itertools.pairwise(roots)]
    assert max(steps) - min(steps) < 1e-12 and steps[0] < 0


def test_levels_of_mnist_and_cifar10_by_the_rules_of_the_paper():
    mnist = NoiseLevels.from_data(20.0, 784)
    assert mnist.ratio == pytest.approx(1.082, abs=1.5e-3) and abs(mnist.count - 96) <= 2
    assert shared_mass(NoiseLevels().ratio, 3072) == pytest.approx(0.567, abs=2e-3)
    cifar10 = NoiseLevels.from_data(50.0, 3072, overlap=shared_mass(NoiseLevels().ratio, 3072) - 1e-6)
    assert abs(cifar10.count - 232) <= 1


@pytest.mark.parametrize("overlap", [0.3, 0.5, 0.7])
def test_the_chosen_levels_share_at_least_the_wanted_mass(overlap):
    levels = NoiseLevels.from_data(7.0, 64, 0.02, overlap)
    assert levels.values[0] == pytest.approx(7.0) and levels.values[-1] == pytest.approx(0.02)
    assert shared_mass(levels.ratio, 64) >= overlap - 1e-9
    assert shared_mass((7.0 / 0.02) ** (1 / (levels.count - 2)), 64) < overlap, "one level fewer would not do"


@pytest.mark.parametrize("arguments", [(0.01, 64), (5.0, 0), (5.0, 64, 0.01, 1.5), (math.nan, 64)])
def test_bad_data_figures_are_refused(arguments):
    with pytest.raises(ValueError, match=r"from_data needs .* got"):
        NoiseLevels.from_data(*arguments)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_largest_distance_is_that_of_the_farthest_pair(block):
    images = torch.rand((50, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    calls = []
    distance = largest_distance(images, block, lambda done, total: calls.append((done, total)))
    assert distance == pytest.approx(torch.cdist(images.flatten(1), images.flatten(1)).max().item(), rel=1e-5)
    blocks = math.ceil(50 / block)
    assert calls == [(i, blocks) for i in range(1, blocks + 1)]
    with pytest.raises(ValueError, match="got 1"):
        largest_distance(images[:1])


def test_reverse_steps_end_where_they_should():
    vp = VariancePreserving()
    steps = vp.reverse_steps(0.1, 1e-5, 1e-3)
    assert len(steps) == 100 and steps[0].t == 0.1
    assert [step.dt for step in steps[:-1]] == pytest.approx([1e-3] * 99)
    assert steps[-1].dt == pytest.approx(1e-3 - 1e-5) and steps[-1].t == pytest.approx(1e-3)
    assert (steps[0].beta, steps[0].alpha_bar) == pytest.approx((2.09, 0.89628), abs=1e-5)
    assert len(vp.reverse_steps(0.1, 0, 1e-3)) == len(vp.reverse_steps(0.075, 0, 7.5e-4)) == 100
    for bad in ((0.1, 0.1, 1e-3), (1.1, 0, 1e-3), (0.1, 0, 0.0)):
        with pytest.raises(ValueError, match=str(bad[2])):
            vp.reverse_steps(*bad)


def test_the_two_tables_for_the_start_nearly_agree():
    vp = VariancePreserving()
    assert vp.start(0.1) == pytest.approx(0.89702, abs=1e-5)
    assert vp.start(0.1, "continuous") == pytest.approx(0.89628, abs=1e-5)
    for arguments, value in (((0.1, "late"), "late"), ((1e-4,), "0.0001"), ((0.0, "continuous"), "0.0")):
        with pytest.raises(ValueError, match=value):
            vp.start(*arguments)


def test_decreasing_levels_are_numbers():
    levels = NoiseLevels(1.0, 0.1, 3)
    assert decreasing_levels("X", levels) == levels.values and decreasing_levels("X", [0.3, 0.1]) == (0.3, 0.1)


@pytest.mark.parametrize("sigmas", [[], [0.1, 0.2], [0.2, 0.2], [0.2, 0.0], [0.2, -1.0], [math.inf, 1.0], [math.nan]])
def test_levels_that_do_not_decrease_are_refused(sigmas):
    with pytest.raises(ValueError, match=r"X needs positive, decreasing sigmas; got \["):
        decreasing_levels("X", sigmas)


def test_the_tables_of_a_schedule_are_numbers_wherever_it_is_first_asked():
    schedule = VariancePreserving()
    with torch.device("meta"):
        assert schedule.start(0.1) == VP.start(0.1) and schedule.sigma_table.device.type == "cpu"
