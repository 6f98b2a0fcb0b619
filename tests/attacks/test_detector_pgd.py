"""PGD against a detector: its gradient, what the weight trades, and what counts as a success."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, DetectorPGD
from lit_pursamere.defense.detectors import ReconstructionNorm, ScoreNorm
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.threat import ThreatModel

NORMS = {"linf": 0.1, "l2": 0.2, "l1": 0.3}


class Flat(nn.Module):
    """Two classes with equal logits, differentiable with gradient zero."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :2]


@pytest.fixture
def detector(mixture):
    return ScoreNorm(mixture, 0.03)


@pytest.fixture
def labels(linear_classifier, images) -> Tensor:
    return linear_classifier(images).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
def test_the_weight_trades_loss_for_silence(norm, detector, linear_classifier, images, labels):
    def reached(weight: float) -> tuple[Tensor, Tensor]:
        attack = DetectorPGD(ThreatModel(norm, NORMS[norm]), steps=10, detector=detector, weight=weight)
        last = attack(linear_classifier, images, labels).last
        return detector.statistic(last).mean(), F.cross_entropy(linear_classifier(last), labels)

    (low, low_loss), (middle, middle_loss), (high, high_loss) = (reached(weight) for weight in (1e3, 0.0, -1e3))
    assert low < middle < high
    assert low_loss < middle_loss and high_loss < middle_loss


def test_without_weight_it_is_pgd(detector, linear_classifier, images, labels):
    threat = ThreatModel("linf", 0.1)
    attack = DetectorPGD(threat, steps=5, start="ball", detector=detector, weight=0)
    plain = PGD(threat, steps=5, start="ball")(linear_classifier, images, labels)
    assert torch.equal(attack(linear_classifier, images, labels).last, plain.last)


def test_one_step_follows_the_sum_of_both_gradients(detector, linear_classifier, images, labels):
    threat, x = ThreatModel("l2", 0.05), images.clone().requires_grad_()
    aim = F.cross_entropy(linear_classifier(x), labels, reduction="sum") - 0.3 * detector.statistic(x).sum()
    g = torch.autograd.grad(aim, x)[0]
    expected = images + 0.05 * g / g.flatten(1).norm(dim=1)[:, None, None, None]
    attack = DetectorPGD(threat, steps=1, step_size=0.05, detector=detector, weight=0.3)
    assert torch.allclose(attack(linear_classifier, images, labels).last, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [ScoreNorm, ReconstructionNorm], ids=lambda kind: kind.__name__)
def test_on_a_flat_view_it_walks_towards_the_data(kind):
    """One Gaussian: the statistic falls towards its mean, so the optimum in linf is known."""
    mean = torch.full((1, 2, 2), 0.5, dtype=torch.float64)
    detector = kind(GaussianMixtureScore(mean[None], std=[0.05], weights=[1.0]).double(), sigma2=0.01)
    x = torch.tensor([0.2, 0.8, 0.3, 0.7], dtype=torch.float64).reshape(1, 1, 2, 2)
    toward = DetectorPGD(ThreatModel("linf", 0.02), steps=4, detector=detector)
    assert torch.allclose(toward(Flat(), x, torch.tensor([0])).last, x + 0.02 * (mean - x).sign(), rtol=0, atol=1e-12)
    away = replace(toward, weight=-1.0)(Flat(), x, torch.tensor([0])).last
    assert torch.allclose(away, x - 0.02 * (mean - x).sign(), rtol=0, atol=1e-12)


def test_what_the_detector_rejects_is_no_success(mixture, linear_classifier, images, labels):
    """All images are misclassified from the start, and the detector decides where that is a success."""
    wrong, values = (labels + 1) % 3, ScoreNorm(mixture, 0.03).statistic(images)
    attacks = [
        DetectorPGD(ThreatModel("linf", 0.0), steps=3, detector=ScoreNorm(mixture, 0.03, threshold=threshold))
        for threshold in (None, values.median().item())
    ]
    free, watched = (attack(linear_classifier, images, wrong).first_success for attack in attacks)
    assert (free == 0).all()
    assert torch.equal(watched == 0, values <= values.median()) and (watched == -1).sum() == 4


def test_it_is_a_value_that_knows_its_detector(detector):
    threat = ThreatModel("linf", 0.1)
    one, same = (DetectorPGD(threat, detector=made) for made in (detector, deepcopy(detector)))
    assert one == same and hash(one) == hash(same) and repr(one) == repr(same) and "\n" not in repr(one)
    assert "detector_id='ScoreNorm(sigma2=0.03, threshold=None, fpr=0.05) " in repr(one)
    assert one != replace(one, weight=2.0)
    assert one != replace(one, detector=ScoreNorm(detector.score_model, 0.03, threshold=1.0))
    assert one != replace(one, detector=ScoreNorm(GaussianMixtureScore(torch.zeros(1, 2, 2, 2), [0.1]), 0.03))


@pytest.mark.parametrize(
    ("wrong", "value"), [({"weight": math.nan}, "nan"), ({"eot_mode": "sign_vote"}, "sign_vote"), ({"steps": 0}, "0")]
)
def test_bad_settings_name_the_value(wrong, value, detector):
    with pytest.raises(ValueError, match=value):
        DetectorPGD(ThreatModel("linf", 0.1), detector=detector, **wrong)
