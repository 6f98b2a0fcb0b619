"""MIM: its recursion written out, known optima, views whose gradient is zero or immense."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import MIM, PGD
from lit_pursamere.attacks.mim import unit_l1
from lit_pursamere.threat import ThreatModel

NORMS = {"linf": 0.1, "l2": 0.2, "l1": 0.3}


class Curved(nn.Module):
    """A linear classifier of the squared images, so that gradients change from step to step."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear((3 * x).square())


class Flat(nn.Module):
    """Constant logits, differentiable with gradient zero."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.flatten(1)[:, :3] + torch.tensor([1.0, 2.0, 3.0], dtype=x.dtype)


@pytest.fixture
def view(linear_classifier) -> nn.Module:
    return Curved(linear_classifier)


@pytest.fixture
def labels(view, images) -> Tensor:
    return view(images).argmax(1)


@pytest.mark.parametrize("mu", [0.5, 1.0])
def test_the_recursion(mu, view, images, labels):
    eps, step = 0.08, 0.03
    x, g = images.clone(), torch.zeros_like(images)
    for _ in range(4):
        x.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(view(x), labels, reduction="sum"), x)
        g = mu * g + gradient / gradient.flatten(1).abs().sum(1)[:, None, None, None]
        x = (x.detach() + step * g.sign()).clamp(images - eps, images + eps).clamp(0, 1)
    attack = MIM(ThreatModel("linf", eps), steps=4, step_size=step, mu=mu)
    assert torch.allclose(attack(view, images, labels).last, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_without_momentum_it_is_pgd(norm, view, images, labels):
    attack = MIM(ThreatModel(norm, NORMS[norm]), steps=5, mu=0, start="ball", seed=3)
    pgd = PGD(ThreatModel(norm, NORMS[norm]), steps=5, start="ball", seed=3)
    assert torch.allclose(attack(view, images, labels).last, pgd(view, images, labels).last, rtol=0, atol=1e-12)
    with_momentum = replace(attack, mu=1.0)(view, images, labels)
    assert norm == "linf" or not torch.allclose(with_momentum.last, pgd(view, images, labels).last, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_optimum_on_a_linear_classifier(norm):
    linear = nn.Linear(12, 2, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.randn((2, 12), generator=torch.Generator().manual_seed(0)) / 12**0.5)
    w = (linear.weight[1] - linear.weight[0]).detach()
    best = {"linf": w.sign(), "l2": w / w.norm(), "l1": w.sign() * (w.abs() == w.abs().max())}[norm]
    x = torch.full((3, 3, 2, 2), 0.5, dtype=torch.float64)
    attack = MIM(ThreatModel(norm, NORMS[norm]), steps=7, direction="top1" if norm == "l1" else "steepest")
    outcome = attack(nn.Sequential(nn.Flatten(), linear), x, torch.zeros(3, dtype=torch.long))
    assert torch.allclose(outcome.last, x + NORMS[norm] * best.reshape(3, 2, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_moves_nothing(norm, images):
    outcome = MIM(ThreatModel(norm, NORMS[norm]), steps=3)(Flat(), images, torch.full((8,), 2))
    assert torch.equal(outcome.last, images)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e30, 1e38])
def test_gradients_of_any_size_become_length_one(scale):
    gradient = scale * torch.tensor([[[[1.0, -2.0], [0.0, 1.0]]]])
    assert unit_l1(gradient).abs().sum().item() == pytest.approx(1, rel=1e-5)
    assert (unit_l1(torch.zeros(2, 1, 2, 2)) == 0).all()


@pytest.mark.parametrize("mu", [-0.1, math.nan, math.inf])
def test_bad_settings_name_the_value(mu):
    with pytest.raises(ValueError, match=f"MIM.*{mu}"):
        MIM(ThreatModel("linf", 0.1), mu=mu)
    with pytest.raises(ValueError, match="MIM needs eot"):
        MIM(ThreatModel("linf", 0.1), eot=0)
