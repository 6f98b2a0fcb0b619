"""Verdicts count, measure, and are computed in groups of one size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.defense import Defense
from lit_pursamere.defense.detectors import Detector
from lit_pursamere.evaluation.judge import distances, judge
from lit_pursamere.purifiers import Identity, Purifier


class Darken(Purifier):
    """Halves the image; notes how many images come at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def purify(self, x, noise):
        self.sizes.append(len(x))
        return x / 2


@pytest.mark.parametrize("slots", [1, 3, 8, 20])
def test_a_verdict_in_numbers(slots, images, linear_classifier):
    defense = Defense(Darken(), linear_classifier)
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    logits = linear_classifier(images / 2)
    verdict = judge(defense, images, y, 2, slots)
    assert set(defense.purifier.sizes) == {slots}, "every call sees as many images as any other"
    assert torch.equal(verdict.prediction, logits.argmax(1))
    assert torch.equal(verdict.votes, 2 * (logits.argmax(1) == y).long())
    ordered = logits.sort(1, descending=True).values
    right = logits.argmax(1) == y
    assert torch.allclose(verdict.margin[right], (ordered[:, 0] - ordered[:, 1])[right])
    assert (verdict.margin[~right] < 0).all() and right.any() and not right.all()
    assert torch.allclose(verdict.loss, F.cross_entropy(logits, y, reduction="none"))
    assert torch.allclose(verdict.moved, images.flatten(1).norm(dim=1) / 2)
    assert not verdict.loss.requires_grad


class Alternating(nn.Module):
    """Answers class 0 and class 1 in turn."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return torch.tensor([[2.0, 0.0]]).roll(self.calls - 1, 1).expand(len(x), 2)


def test_repeated_verdicts_are_counted_and_averaged():
    verdict = judge(Defense(Identity(), Alternating()), torch.zeros(3, 1, 2, 2), torch.tensor([0, 1, 0]), 3, 3)
    assert verdict.prediction.tolist() == [0, 0, 0] and verdict.votes.tolist() == [2, 1, 2]
    assert torch.allclose(verdict.margin, torch.tensor([2 / 3, -2 / 3, 2 / 3]))


@pytest.mark.parametrize("slots", [1, 5, 8, 9])
def test_distances_in_every_norm(slots, images):
    shifted = images + 0.1
    found = distances(shifted, images, slots)
    assert list(found) == ["linf", "l2", "l1"]
    for value, expected in zip(found.values(), (0.1, 0.1 * 8**0.5, 0.8), strict=True):
        assert torch.allclose(value, torch.full((8,), expected, dtype=torch.float64))


class Brightness(Detector):
    def statistic(self, x):
        return x.flatten(1).mean(1)


def test_rejected_images_have_no_votes(images, linear_classifier):
    y = linear_classifier(images).argmax(1)
    light = images.flatten(1).mean(1)
    threshold = light.median().item()
    defense = Defense(Identity(), linear_classifier, detector=Brightness(None, threshold))
    verdict = judge(defense, images, y, 2, 3)
    assert torch.allclose(verdict.statistic, light)
    assert torch.equal(verdict.rejected, light > threshold) and 0 < verdict.rejected.sum() < 8
    assert torch.equal(verdict.votes, 2 * (light <= threshold).long()) and (verdict.unfooled == 2).all()
    wrong = judge(defense, images, (y + 1) % 3, 2, 3)
    assert torch.equal(wrong.unfooled, 2 * (light > threshold).long()) and not wrong.votes.any()
    assert torch.equal(verdict.prediction, y)
    assert "rejecting by Brightness(threshold" in defense.description
    plain = judge(Defense(Identity(), linear_classifier), images, y, 2, 3)
    assert not plain.rejected.any() and (plain.votes == 2).all()


def test_a_detector_without_threshold_is_named(images, linear_classifier):
    with pytest.raises(ValueError, match=r"Brightness\(.*no threshold"):
        judge(Defense(Identity(), linear_classifier, detector=Brightness(0.1)), images, torch.zeros(8).long(), 1, 8)
