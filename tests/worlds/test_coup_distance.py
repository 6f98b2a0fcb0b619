"""Proposition 2 of COUP bounds every path with the constants of its states, and not with those of the image alone."""

import math

import pytest
import torch

from lit_pursamere.diffusion import VP, vp_score
from lit_pursamere.worlds import coup_distance


@pytest.mark.parametrize("t_star", [0.025, 0.1, 0.2])
def test_no_path_passes_its_bound(t_star):
    motion = coup_distance.coup_motion(t_star, runs=400)
    share = motion.moved / coup_distance.proposition_2_bound(motion, t_star)
    assert share.max() <= 1
    assert share.max() > 0.5  # it is not trivial
    noiseless = motion._replace(eps=torch.zeros_like(motion.eps))
    assert (motion.moved > coup_distance.proposition_2_bound(noiseless, t_star)).any()


def test_the_bound_grows_with_time():
    motion = coup_distance.coup_motion(0.1, runs=50)
    bounds = torch.stack([coup_distance.proposition_2_bound(motion, t) for t in (0.025, 0.05, 0.1, 0.2)])
    assert (bounds.diff(dim=0) > 0).all()


@pytest.mark.parametrize("t_star", [0.05, 0.1, 0.2])
def test_a_constant_score_moves_farther_than_the_image_alone_allows(t_star):
    alone, along = coup_distance.constant_score_motion(t_star)
    gamma = coup_distance.time_integral(t_star, dt=0)
    exact = math.expm1(gamma) * (0.2 + 2)  # the SDE without noise, solved
    assert float(alone.moved) == pytest.approx(exact, rel=0.03)
    assert alone.moved > coup_distance.proposition_2_bound(alone, t_star)
    assert alone.moved <= coup_distance.proposition_2_bound(along, t_star)
    assert alone.moved <= coup_distance.proposition_2_bound(alone, t_star, propagated=True)


def test_the_constant_score_is_one():
    u = torch.tensor([-0.3, 0.9], dtype=torch.float64).reshape(-1, 1, 1, 1)
    for t in (1e-3, 0.1, 0.9):
        power = float(VP.alpha_bar(torch.tensor(t, dtype=torch.float64)))
        torch.testing.assert_close(vp_score(coup_distance.ConstantScore(1.5), u, power), torch.full_like(u, 1.5))


def test_the_watch_sees_states_and_scores():
    """From a constant score: the largest state is the one before the last step."""
    _, along = coup_distance.constant_score_motion(0.1, score=0.7, start=0.2)
    assert float(along.c_s) == pytest.approx(1.4)
    assert 0.2 < float(along.c_x) <= 0.2 + float(along.moved)
    watch = coup_distance.StateWatch(coup_distance.ConstantScore(0.7))
    vp_score(watch, torch.full((1, 1, 1, 2), 0.3, dtype=torch.float64), 0.9)
    assert (float(watch.state), float(watch.score_)) == pytest.approx((0.3 * 2**0.5, 0.7 * 2**0.5))
