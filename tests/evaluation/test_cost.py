"""Costs are counted, not claimed: calls and gradients of every network, determinism, and no trace left behind."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from lit_pursamere.defense import Defense
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion import AutoencoderScore
from lit_pursamere.evaluation.cost import known_cost, measure_cost
from lit_pursamere.networks import DenoisingAutoencoder
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
from lit_pursamere.store.costs import read_cost, write_cost


class Twice(Purifier):
    """A purifier in a purifier."""

    knowledge = "fixed"

    def __init__(self, inner: Purifier) -> None:
        super().__init__()
        self.inner = inner

    def purify(self, x, noise):
        return self.inner(self.inner(x, noise), noise)


class Idle(Purifier):
    """Draws a number that changes nothing."""

    def purify(self, x, noise):
        torch.rand(1)
        return x


class Tossing(Purifier):
    """Draws from the global generator."""

    def purify(self, x, noise):
        return x * torch.rand(1).to(x)


def behind(purifier: Purifier, copies: int = 1) -> Defense:
    """A defence; its classifier must not be asked."""
    return Defense(purifier, nn.Identity(), Ensemble(copies))


@pytest.mark.parametrize(
    ("build", "calls", "gradients"),
    [
        (lambda model: Identity(), 0, 0),
        (lambda model: PurSAMERE(model, 0.5, 0.2, draws=3, sigmas=[0.4, 0.2]), 12, 12),
        (lambda model: PurSAMERE(model, 0.5, 0.0, draws=3, sigmas=[0.4, 0.2]), 6, 6),
        (lambda model: ADP(model, sigma=0.1, steps=4, tau=0.0).under("fixed"), 8, 0),
        (lambda model: DiffPure(model, dt=0.02).under("fixed"), 5, 0),
        (lambda model: DP_EDM(model, steps=8).under("fixed"), 15, 0),
        (lambda model: GDMP(model, "mse", rounds=2, t_star=4).under("fixed"), 8, 0),
        (lambda model: LikelihoodMaximisation(model, steps=3), 3, 3),
        (lambda model: Twice(MALADE(model, steps=5).under("fixed")), 10, 0),
    ],
    ids=["Identity", "PurSAMERE", "SAM off", "ADP", "DiffPure", "DP_EDM", "GDMP", "Likelihood", "nested"],
)
def test_calls_and_gradients_per_image(build, calls, gradients, mixture, images):
    cost = measure_cost(behind(build(mixture)), images)
    assert cost.asked(True) == (calls, gradients) and cost.asked(False) == (0, 0)
    assert cost.deterministic and cost.images == len(images) and cost.seconds > 0
    assert cost == dataclasses.replace(
        measure_cost(behind(build(mixture)), images), seconds=cost.seconds, time=cost.time
    )


def test_a_classifier_inside_a_purifier_is_counted_apart(mixture, images, linear_classifier):
    cost = measure_cost(behind(COUP(mixture, linear_classifier, dt=0.02).under("fixed")), images)
    assert cost.asked(True) == (5, 0) and cost.asked(False) == (5, 5)
    assert {name: asked.network for name, asked in cost.networks.items()} == {
        "score_model": "GaussianMixtureScore",
        "classifier": "Sequential",
    }
    assert measure_cost(behind(COUP(mixture, linear_classifier, lam=0, dt=0.02)), images).asked(False) == (0, 0)


@pytest.mark.parametrize(
    ("build", "deterministic"),
    [
        (lambda model: MALADE(model, steps=2), False),
        (lambda model: MALADE(model, steps=2).under("fixed"), True),
        (lambda model: MALADE(model, steps=2, delta=0.0), True),
        (lambda model: Idle(), True),
        (lambda model: Tossing(), False),
    ],
    ids=["fresh noise", "seeded noise", "no noise", "draws in vain", "draws"],
)
def test_determinism(build, deterministic, mixture, images):
    assert measure_cost(behind(build(mixture)), images).deterministic == deterministic


def test_an_answer_costs_as_many_purifications_as_it_has_copies(mixture, images):
    one, three = (measure_cost(behind(MALADE(mixture, steps=2).under("fixed"), copies), images) for copies in (1, 3))
    assert one.asked(True) == (2, 0) and three.asked(True) == (6, 0)
    assert three.deterministic and three.purifier == f"{one.purifier}, logits of 3 copies"


def test_a_score_model_is_counted_whatever_it_is_asked(tiny_score):
    x, network = torch.rand(3, 1, 8, 8), DenoisingAutoencoder(channels=1, width=2)
    cost = measure_cost(behind(MALADE(AutoencoderScore(network), steps=2).under("fixed")), x)
    assert cost.asked(True) == (2, 0), "although `denoise` asks for no noise"
    assert measure_cost(behind(LikelihoodMaximisation(tiny_score, steps=2)), x).asked(True) == (2, 2)


def test_measuring_leaves_no_trace(mixture, images, linear_classifier):
    purifier = COUP(mixture, linear_classifier, dt=0.02)
    before = torch.get_rng_state()
    measure_cost(behind(purifier), images)
    assert torch.equal(torch.get_rng_state(), before)
    assert not mixture._forward_hooks and not linear_classifier._forward_hooks


def test_a_failing_purifier_leaves_no_trace_either(mixture, images):
    class Failing(Purifier):
        def __init__(self, score_model):
            super().__init__()
            self.score_model, self.net = score_model, nn.Identity()

        def purify(self, x, noise):
            raise ValueError("no")

    purifier = Failing(mixture)
    with pytest.raises(ValueError, match="no"):
        measure_cost(behind(purifier), images)
    assert not mixture._forward_hooks and not purifier.net._forward_hooks


def test_costs_are_kept_for_one_purifier_with_one_set_of_weights(mixture, images, tmp_path):
    purifier = MALADE(mixture, steps=2).under("fixed")
    assert known_cost(behind(purifier), tmp_path / "run") is None
    cost = measure_cost(behind(purifier), images)
    write_cost(tmp_path / "run", cost)
    assert known_cost(behind(purifier), tmp_path / "run") == cost
    assert known_cost(behind(MALADE(mixture, steps=3).under("fixed")), tmp_path / "run") is None
    mixture.means += 0.1
    assert known_cost(behind(purifier), tmp_path / "run") is None


@pytest.mark.parametrize("content", ["{", "[]", '{"purifier": "X"}', json.dumps({"networks": {"a": 1}})])
def test_a_damaged_file_is_named(content, tmp_path):
    (tmp_path / "cost.json").write_text(content)
    with pytest.raises(ValueError, match=r"cost\.json is damaged .* remove it"):
        read_cost(tmp_path)
