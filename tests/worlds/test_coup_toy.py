"""COUP's toy world: label flips agree with an independent simulation of the paper's Figure 3b and Proposition 1."""

from __future__ import annotations

import math

import pytest
import torch

from lit_pursamere.worlds import coup_toy

RUNS = 10_000
LAST = {  # (c, lambda) -> share of runs that end below 0, to 0.003
    (0, 0): 0.276, (0, 1): 0.250, (0, 2): 0.230, (0, 5): 0.156, (0, 10): 0.073,
    (1, 5): 0.171, (1, 10): 0.107,
    (5, 1): 0.265, (5, 5): 0.304, (5, 10): 0.425,
    (10, 1): 0.268, (10, 2): 0.284, (10, 5): 0.392, (10, 10): 0.601,
}  # fmt: skip
EVER = {(0, 0): 0.513, (0, 1): 0.460, (0, 2): 0.415, (0, 5): 0.276, (0, 10): 0.120}


def near(p: float):
    return pytest.approx(p, abs=0.003 + 4 * math.sqrt(p * (1 - p) / RUNS))


QUICK = {*EVER, (1, 10), (5, 10), (10, 10)} - {(0, 1), (0, 2)}
SAMPLE = [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in LAST]


@pytest.mark.parametrize(("c", "lam"), SAMPLE, ids=str)
def test_labels_flip_as_often_as_in_the_reference(c, lam):
    flips = coup_toy.flip_probability(lam, c, RUNS)
    assert flips.last == near(LAST[c, lam])
    assert flips.ever >= flips.last
    if (c, lam) in EVER:
        assert flips.ever == near(EVER[c, lam])


def test_without_disturbance_the_classifier_is_bayes(points=(-2.0, -0.3, 0.0, 0.2, 1.5)):
    u = torch.tensor(points, dtype=torch.float64)
    assert torch.allclose(coup_toy.class_probability(u, 0.0), torch.sigmoid(u), rtol=0, atol=1e-12)
    logits = coup_toy.DisturbedClassifier()((u.reshape(-1, 1, 1, 1) + 1) / 2)
    assert torch.allclose(logits.softmax(1)[:, 1], torch.sigmoid(u), rtol=0, atol=1e-12)


def test_a_disturbance_that_outweighs_a_density_is_clipped_but_keeps_its_slope():
    """At u = 1.75 and c = 10 the formula exceeds 1: p_0 = 0.032 and the disturbance -0.080."""
    u = torch.tensor(1.75, dtype=torch.float64, requires_grad=True)
    p = coup_toy.class_probability(u, 10.0)
    assert p.item() == 1 - 1e-6
    a, b = (math.exp(-((1.75 + s) ** 2) / 2) / math.sqrt(2 * math.pi) for s in (0.5, -0.5))
    total = a + b + 10 * math.sin(175) / 100
    change = -2.25 * a - 1.25 * b + 10 * math.cos(175)
    slope = (-1.25 * b * total - b * change) / total**2
    assert b / total > 1
    assert torch.autograd.grad(p, u)[0].item() == pytest.approx(slope, rel=1e-9)


def test_the_same_seed_repeats_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    first = coup_toy.flip_probability(1.0, 1.0, 200)
    assert first == coup_toy.flip_probability(1.0, 1.0, 200)
    assert first != coup_toy.flip_probability(1.0, 1.0, 200, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
