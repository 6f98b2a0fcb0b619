"""Costs are counted, not claimed: calls and gradients of every network, determinism, and no trace left behind."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from lit_pursamere.diffusion import FreshNoise
from lit_pursamere.purifiers import (
    ADP,
    COUP,
    DP_EDM,
    GDMP,
    MALADE,
    DiffPure,
    Identity,
    LikelihoodMaximisation,
    Purifier,
    PurSAMERE,
)  # fmt: skip
from lit_pursamere.results.costs import read_cost, write_cost
from lit_pursamere.tasks.cost import known_cost, measure_cost


class Twice(Purifier):
    """A purifier in a purifier."""

    def __init__(self, inner: Purifier) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x, noise=None):
        return self.inner(self.inner(x, noise), noise)


class Drawing(Purifier):
    """Draws a number that changes nothing."""

    def forward(self, x, noise=None):
        torch.rand(1)
        return x


@pytest.mark.parametrize(
    ("build", "calls", "gradients"),
    [
        (lambda model: Identity(), 0, 0),
        (lambda model: PurSAMERE(model, 0.5, 0.2, draws=3, sigmas=[0.4, 0.2]), 12, 12),
        (lambda model: PurSAMERE(model, 0.5, 0.0, draws=3, sigmas=[0.4, 0.2]), 6, 6),
        (lambda model: ADP(model, sigma=0.1, steps=4, tau=0.0, seed=0), 8, 0),
        (lambda model: DiffPure(model, dt=0.02, seed=0), 5, 0),
        (lambda model: DP_EDM(model, steps=8, seed=0), 15, 0),
        (lambda model: GDMP(model, "mse", rounds=2, t_star=4, seed=0), 8, 0),
        (lambda model: LikelihoodMaximisation(model, steps=3), 3, 3),
        (lambda model: Twice(MALADE(model, steps=5, seed=0)), 10, 0),
    ],
    ids=["Identity", "PurSAMERE", "SAM off", "ADP", "DiffPure", "DP_EDM", "GDMP", "Likelihood", "nested"],
)
def test_calls_and_gradients_per_image(build, calls, gradients, mixture, images):
    cost = measure_cost(build(mixture), images)
    assert cost.asked(True) == (calls, gradients) and cost.asked(False) == (0, 0)
    assert cost.deterministic and cost.images == len(images) and cost.seconds > 0
    assert cost == dataclasses.replace(measure_cost(build(mixture), images), seconds=cost.seconds, time=cost.time)


def test_a_classifier_inside_a_purifier_is_counted_apart(mixture, images, linear_classifier):
    cost = measure_cost(COUP(mixture, linear_classifier, dt=0.02, seed=0), images)
    assert cost.asked(True) == (5, 0) and cost.asked(False) == (5, 5)
    assert {name: asked.network for name, asked in cost.networks.items()} == {
        "score_model": "GaussianMixtureScore",
        "classifier": "Sequential",
    }
    assert measure_cost(COUP(mixture, linear_classifier, lam=0, dt=0.02), images).asked(False) == (0, 0)


@pytest.mark.parametrize(
    ("build", "repeats", "draws"),
    [
        (lambda model: MALADE(model, steps=2, seed="fresh"), False, True),
        (lambda model: MALADE(model, steps=2, seed=FreshNoise(), delta=0.0), True, False),
        (lambda model: Drawing(), True, True),
    ],
    ids=["fresh noise", "no noise", "draws in vain"],
)
def test_determinism_needs_equal_images_and_untouched_generators(build, repeats, draws, mixture, images):
    cost = measure_cost(build(mixture), images)
    assert (cost.repeats, cost.draws, cost.deterministic) == (repeats, draws, repeats and not draws)


def test_measuring_leaves_no_trace(mixture, images, linear_classifier):
    purifier = COUP(mixture, linear_classifier, dt=0.02)
    before, kept = torch.get_rng_state(), dict(vars(mixture))
    measure_cost(purifier, images)
    assert torch.equal(torch.get_rng_state(), before)
    assert vars(mixture).keys() == kept.keys() and not linear_classifier._forward_hooks


def test_a_failing_purifier_leaves_no_trace_either(mixture, images):
    class Failing(Purifier):
        def __init__(self, score_model):
            super().__init__()
            self.score_model, self.net = score_model, nn.Identity()

        def forward(self, x, noise=None):
            raise ValueError("no")

    purifier = Failing(mixture)
    with pytest.raises(ValueError, match="no"):
        measure_cost(purifier, images)
    assert "predict_noise" not in vars(mixture) and not purifier.net._forward_hooks


def test_costs_are_kept_for_one_purifier_with_one_set_of_weights(mixture, images, tmp_path):
    purifier = MALADE(mixture, steps=2, seed=0)
    assert known_cost(purifier, tmp_path / "run") is None
    cost = measure_cost(purifier, images)
    write_cost(tmp_path / "run", cost)
    assert known_cost(purifier, tmp_path / "run") == cost
    assert known_cost(MALADE(mixture, steps=3, seed=0), tmp_path / "run") is None
    mixture.means += 0.1
    assert known_cost(purifier, tmp_path / "run") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"purifier": "X"}', json.dumps({"networks": {"a": 1}})])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "cost.json").write_text(content)
    with pytest.raises(ValueError, match=r"cost\.json is damaged .* remove it"):
        read_cost(tmp_path)
