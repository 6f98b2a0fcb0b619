"""The selective gradient: by hand, what it follows where the mean gains nothing, its memory, errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, SelectivePGD
from lit_pursamere.attacks.gradients import draw_gradients
from lit_pursamere.threat import ThreatModel

THREAT = ThreatModel("l2", 0.5)


class Split(nn.Module):
    """Two classes. Draws take turns: two fragile ones fall along the first pixel, eight firm ones rise along it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        draw = self.asked % 10
        self.asked += 1
        first = x.flatten(1)[:, 0] - 0.5
        margin = 4 * first - 0.5 if draw < 2 else -first - 3
        return torch.stack([-margin / 2, margin / 2], 1)


def test_the_weighted_mean_by_hand():
    g = torch.tensor([[[3.0, 0.0]], [[0.0, 2.0]], [[-1.0, 0.0]]], dtype=torch.float64).reshape(3, 1, 1, 1, 2)
    losses = torch.tensor([[0.1], [-0.2], [-0.3]], dtype=torch.float64)
    attack = SelectivePGD(THREAT, eot=3, loss="margin", rounds=1, sharpness=2.0)
    # Along the first gradient, eps = 0.5: gains 0.1 + 1.5, -0.2 + 0, -0.3 - 0.5; it has the largest sum of elus.
    weights = torch.sigmoid(2 * torch.tensor([1.6, -0.2, -0.8], dtype=torch.float64))
    expected = (weights.reshape(3, 1, 1, 1, 1) * g).sum(0) / weights.sum()
    assert torch.allclose(attack.select(g, losses), expected, rtol=0, atol=1e-12)
    direction = expected / expected.norm()  # the second round goes on from there
    weights = torch.sigmoid(2 * (losses[:, 0] + 0.5 * (g * direction).flatten(1).sum(1)))
    again = (weights.reshape(3, 1, 1, 1, 1) * g).sum(0) / weights.sum()
    assert torch.allclose(replace(attack, rounds=2).select(g, losses), again, rtol=0, atol=1e-12)


def test_equal_draws_give_their_gradient(linear_classifier, images):
    y = linear_classifier(images).argmax(1)
    gradients, losses, wrong = draw_gradients(linear_classifier, images, y, eot=4, loss="margin", chunk=3)
    assert gradients.shape == (4, *images.shape) and losses.shape == wrong.shape == (4, len(images))
    assert torch.equal(losses[0], losses[3]) and (losses < 0).all() and not wrong.any()
    assert torch.allclose(SelectivePGD(THREAT, eot=4).select(gradients, losses), gradients[0], rtol=1e-12)
    plain, selective = (cls(THREAT, steps=1, eot=4, loss="margin") for cls in (PGD, SelectivePGD))
    assert torch.allclose(
        selective(linear_classifier, images, y).last, plain(linear_classifier, images, y).last, rtol=0, atol=1e-12
    )


def test_fragile_draws_are_broken_where_the_mean_of_more_firm_ones_gains_nothing():
    x, y = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    settings = {"steps": 5, "step_size": 0.1, "eot": 10, "eot_chunk": 1, "loss": "margin"}
    moved = {}
    for cls in (PGD, SelectivePGD):
        view = Split()
        last = cls(ThreatModel("l2", 0.3), **settings)(view, x, y).last
        view.asked = 0
        with torch.no_grad():
            moved[cls] = sum(int(view(last).argmax()) for _ in range(10))
    # The mean gradient is 2 * 4 - 8 * 1 = 0 along the first pixel.
    assert moved == {PGD: 0, SelectivePGD: 2}


class Turning(nn.Module):
    """Two classes; the gradient of the margin turns from the first to the second pixel after the first step."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        pixel = x.flatten(1)[:, min(self.asked, 1)]
        self.asked += 1
        return torch.stack([5 - pixel, pixel - 5], 1)


@pytest.mark.parametrize("memory", [0.0, 0.5, 2.0])
def test_earlier_gradients_fade(memory):
    x, y = torch.full((1, 1, 1, 2), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    attack = SelectivePGD(THREAT, steps=2, step_size=0.1, loss="margin", memory=memory)
    fresh = 2**-memory
    second = torch.tensor([1 - fresh, fresh], dtype=torch.float64)
    expected = torch.tensor([0.6, 0.5], dtype=torch.float64) + 0.1 * second / second.norm()
    assert torch.allclose(attack(Turning(), x, y).last.flatten(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rounds": 0}, "rounds >= 1; got 0"),
        ({"sharpness": -1.0}, "sharpness >= 0; got -1"),
        ({"memory": float("nan")}, "memory >= 0; got nan"),
        ({"eot_mode": "sign_vote"}, "leave eot_mode out, got 'sign_vote'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SelectivePGD(THREAT, **settings)
