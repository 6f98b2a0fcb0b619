"""PGD with the reconstruction error in mind: its gradient, both signs, and the purifier's own draws."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, ReconstructionPGD
from lit_pursamere.diffusion import GaussianMixtureScore, NoiseLevels, SeededNoise, expected_reconstruction_error
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.threat import ThreatModel

NORMS = {"linf": 0.1, "l2": 0.2, "l1": 0.3}
SIGMAS = [0.3, 0.1]


class Flat(nn.Module):
    """Two classes with equal logits, differentiable with gradient zero."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :2]


@pytest.fixture
def labels(linear_classifier, images) -> Tensor:
    return linear_classifier(images).argmax(1)


def error(score_model, x: Tensor, draws: int = 4, seed: int = 0) -> Tensor:
    noise = SeededNoise(seed)
    levels = [noise.draw("level", k, draws, x) for k in range(1, len(SIGMAS) + 1)]
    values = [expected_reconstruction_error(score_model, x, s, xi) for s, xi in zip(SIGMAS, levels, strict=True)]
    return torch.stack(values).mean(0)


@pytest.mark.parametrize("weight", [2.0, -2.0])
def test_one_step_follows_the_gradient_of_the_sum(weight, mixture, linear_classifier, images, labels):
    x = images.clone().requires_grad_()
    objective = F.cross_entropy(linear_classifier(x), labels, reduction="none") - weight * error(mixture, x) / 8
    (gradient,) = torch.autograd.grad(objective.sum(), x)
    expected = images + 0.01 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    attack = ReconstructionPGD(
        ThreatModel("l2", 0.2), steps=1, step_size=0.01, score_model=mixture, weight=weight, sigmas=SIGMAS
    )
    assert torch.allclose(attack(linear_classifier, images, labels).last, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_the_weight_trades_error_for_loss(norm, mixture, linear_classifier, images, labels):
    def reached(weight: float) -> tuple[Tensor, Tensor]:
        attack = ReconstructionPGD(
            ThreatModel(norm, NORMS[norm]), steps=10, score_model=mixture, weight=weight, sigmas=SIGMAS
        )
        last = attack(linear_classifier, images, labels).last
        return error(mixture, last).mean(), F.cross_entropy(linear_classifier(last), labels)

    (low, low_loss), (middle, middle_loss), (high, high_loss) = (reached(weight) for weight in (1e3, 0.0, -1e3))
    assert low < middle < high
    assert low_loss < middle_loss and high_loss < middle_loss


@pytest.mark.parametrize("norm", NORMS)
def test_without_weight_it_is_pgd(norm, mixture, linear_classifier, images, labels):
    threat = ThreatModel(norm, NORMS[norm])
    attack = ReconstructionPGD(threat, steps=5, start="ball", score_model=mixture, weight=0)
    plain = PGD(threat, steps=5, start="ball")(linear_classifier, images, labels)
    assert torch.equal(attack(linear_classifier, images, labels).last, plain.last)


def test_on_a_flat_view_it_walks_towards_the_data():
    """One Gaussian: R falls towards its mean, so the optimum in linf is known."""
    mean = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    score_model = GaussianMixtureScore(mean[None], std=[0.05], weights=[1.0]).double()
    x = torch.tensor([0.2, 0.8, 0.3, 0.7], dtype=torch.float64).reshape(1, 1, 2, 2)
    attack = ReconstructionPGD(
        ThreatModel("linf", 0.02), steps=4, score_model=score_model, sigmas=[0.1], draws=64, noise_seed=3
    )
    toward = attack(Flat(), x, torch.tensor([0])).last
    assert torch.allclose(toward, x + 0.02 * (mean - x).sign(), rtol=0, atol=1e-12)
    away = replace(attack, weight=-1.0)(Flat(), x, torch.tensor([0])).last
    assert torch.allclose(away, x - 0.02 * (mean - x).sign(), rtol=0, atol=1e-12)


def test_it_knows_the_function_that_pursamere_minimises(mixture, images):
    purifier = PurSAMERE(mixture, rho_pur=0.4, rho_sam=0, draws=3, sigmas=SIGMAS, seed=5)
    attack = ReconstructionPGD(ThreatModel("linf", 0.1), score_model=mixture, sigmas=SIGMAS[:1], draws=3, noise_seed=5)
    _, expected = purifier._error_and_gradient(images, SIGMAS[0], SeededNoise(5).draw("level", 1, 3, images))
    assert torch.allclose(attack.error_gradient(images), expected, rtol=0, atol=1e-12)


def test_it_is_a_value_that_knows_its_score_model(mixture):
    threat, levels = ThreatModel("linf", 0.1), NoiseLevels(0.3, 0.1, 2)
    one = ReconstructionPGD(threat, score_model=mixture, sigmas=levels)
    same = ReconstructionPGD(threat, score_model=deepcopy(mixture), sigmas=list(levels.values))
    assert one == same and hash(one) == hash(same) and repr(one) == repr(same) and "\n" not in repr(one)
    assert "score_id='GaussianMixtureScore " in repr(one) and one.sigmas == tuple(levels.values)
    assert one != replace(one, weight=2.0)
    default = ReconstructionPGD(threat, score_model=mixture)
    assert len(default.sigmas) == 5 and default.sigmas[-1] == pytest.approx(0.01) and default.sigmas[0] <= 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": math.nan},
        {"sigmas": []},
        {"sigmas": [0.1, 0.0]},
        {"draws": 0},
        {"noise_seed": -7},
        {"eot_mode": "sign_vote"},
        {"steps": 0},
    ],
    ids=str,
)
def test_bad_settings_name_the_value(wrong, mixture):
    value = str(next(iter(wrong.values()))).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(ValueError, match=value):
        ReconstructionPGD(ThreatModel("linf", 0.1), score_model=mixture, **wrong)
