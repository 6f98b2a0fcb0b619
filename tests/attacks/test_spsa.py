"""SPSA: its estimate against the true gradient, masked gradients, and that neighbours and chunks change nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, SPSA
from lit_pursamere.attacks.gradients import adversarial_loss
from lit_pursamere.seeding import generator
from lit_pursamere.threat import ThreatModel

NORMS = {"linf": 0.1, "l2": 0.2, "l1": 0.3}


class Masked(nn.Module):
    """Values of a classifier with a gradient that is missing, or zero."""

    def __init__(self, inner: nn.Module, zero: bool) -> None:
        super().__init__()
        self.inner, self.zero = inner, zero

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x.detach()).detach()
        return logits + 0 * x.sum() if self.zero else logits


class Curved(nn.Module):
    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear, self.sizes = linear, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.linear((3 * x).square())


@pytest.fixture
def labels(linear_classifier, images) -> Tensor:
    """Classes of a classifier whose borders run through the images."""
    with torch.no_grad():
        linear_classifier[1].bias.copy_(-linear_classifier(images).mean(0))
    return linear_classifier(images).argmax(1)


def test_the_estimate_in_closed_form(linear_classifier, images, labels):
    """A linear loss has exact differences: the estimate is the mean of v (v . w) over the pairs."""
    attack, x, y = SPSA(ThreatModel("l2", 0.2), pairs=5, loss="margin"), images[:1], labels[:1]
    w = linear_classifier[1].weight.detach()
    logits = linear_classifier(x)[0].detach()
    other = logits.index_fill(0, y, -torch.inf).argmax()
    source = generator(0, 3)
    v = torch.stack([2.0 * torch.randint(2, (1, 2, 2, 2), generator=source).flatten() - 1 for _ in range(5)]).double()
    expected = (v * (v @ (w[other] - w[y[0]]))[:, None]).mean(0)
    estimate = attack._estimate(linear_classifier, x, y, torch.tensor([3]))
    assert torch.allclose(estimate.flatten(), expected, rtol=0, atol=1e-9)


def test_many_pairs_find_the_gradient(linear_classifier, images, labels):
    view = Curved(linear_classifier)
    attack = SPSA(ThreatModel("l2", 0.2), pairs=2000, pairs_chunk=500)
    with torch.no_grad():
        estimate = attack._estimate(view, images, labels, torch.ones_like(labels))
    x = images.clone().requires_grad_()
    (exact,) = torch.autograd.grad(adversarial_loss(view(x), labels, "margin").sum(), x)
    assert torch.cosine_similarity(estimate.flatten(1), exact.flatten(1)).min() > 0.99


@pytest.mark.parametrize("zero", [True, False], ids=["zero", "missing"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_masked_gradient_does_not_help_the_defence(norm, zero, linear_classifier, images, labels):
    threat, view = ThreatModel(norm, 3 * NORMS[norm]), Masked(linear_classifier, zero)
    outcome = SPSA(threat, steps=10, pairs=64)(view, images, labels)
    white = PGD(threat, steps=10, loss="margin")(linear_classifier, images, labels)

    def margin(x: Tensor) -> Tensor:
        return adversarial_loss(linear_classifier(x), labels, "margin")

    gained = (margin(outcome.last) - margin(images)) / (margin(white.last) - margin(images))
    assert gained.min() > 0.75
    if zero:
        assert torch.equal(PGD(threat, steps=2)(view, images, labels).last, images)


@pytest.mark.parametrize("norm", NORMS)
def test_a_few_steps_cross_the_ball(norm, linear_classifier, images, labels):
    """Steps of a fixed part of eps would end on the way."""
    threat = ThreatModel(norm, NORMS[norm])
    few, many = (SPSA(threat, steps=steps, pairs=64)(linear_classifier, images, labels).last for steps in (3, 40))
    margins = [adversarial_loss(linear_classifier(x), labels, "margin") for x in (images, few, many)]
    assert (margins[1] - margins[0] > 0.8 * (margins[2] - margins[0])).all()


@pytest.mark.parametrize("chunk", [1, 3, 7, 50])
def test_chunks_change_nothing(chunk, linear_classifier, images, labels):
    attack, view = SPSA(ThreatModel("l2", 0.2), steps=2, pairs=7), Curved(linear_classifier)
    expected = replace(attack, pairs_chunk=7)(view, images, labels)
    view.sizes.clear()
    outcome = replace(attack, pairs_chunk=chunk)(view, images, labels)
    assert torch.allclose(outcome.last, expected.last, rtol=0, atol=1e-10)
    assert max(view.sizes) == 2 * 8 * min(chunk, 7) and sum(view.sizes) == 2 * 8 * (1 + 14)


def test_pairs_follow_the_step_number_of_each_image(linear_classifier, images, labels):
    """Images at different steps in one batch move as they do alone."""
    attack, view = SPSA(ThreatModel("l2", 0.2), steps=4, pairs=8), Curved(linear_classifier)
    state = attack.init(images, labels) | {"number": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])}
    together, _ = attack.step(view, images, labels, state)
    assert together["number"].tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    for i in range(8):
        mine = {name: value[i : i + 1] for name, value in state.items()}
        alone, _ = attack.step(view, images[i : i + 1], labels[i : i + 1], mine)
        assert torch.allclose(alone["x_adv"], together["x_adv"][i : i + 1], rtol=0, atol=1e-10)
    other, _ = attack.step(view, images, labels, state | {"number": torch.full((8,), 4)})
    assert not torch.isclose(together["x_adv"], other["x_adv"], atol=1e-4).flatten(1).all(1).any()


def test_default_step_and_points_in_the_box(linear_classifier, labels):
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return linear_classifier(x)

    x = torch.rand((8, 2, 2, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64).round()
    outcome = SPSA(ThreatModel("linf", 0.08), steps=1, pairs=3)(Spy(), x, labels)
    assert min(point.min() for point in seen) >= 0 and max(point.max() for point in seen) <= 1
    assert (outcome.last - x).abs().max().item() == pytest.approx(0.08)  # a single step crosses the ball
    attack = SPSA(ThreatModel("linf", 0.08))
    first, _ = attack.step(linear_classifier, x, labels, attack.init(x, labels))
    assert (first["x_adv"] - x).abs().max().item() == pytest.approx(0.01)
    assert (attack.steps, attack.pairs, attack.sigma, attack.step_size) == (40, 128, 0.001, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"pairs": 0},
        {"pairs_chunk": -1},
        {"sigma": 0.0},
        {"sigma": math.nan},
        {"step_size": -0.5},
        {"loss": "hinge"},
        {"steps": 0},
        {"seed": -3},
    ],
    ids=str,
)
def test_bad_settings_name_the_value(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        SPSA(ThreatModel("linf", 0.1), **wrong)
