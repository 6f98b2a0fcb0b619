"""Attacks of other libraries count as attacks of this one: same budget, same views, and nothing is left behind."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.attacks import PGD, Attack, Wrapped
from lit_pursamere.configuration.building import build
from lit_pursamere.defense import Defense
from lit_pursamere.front.attacks import by_name, configuration
from lit_pursamere.purifiers import Identity
from lit_pursamere.threat import Pixels, ThreatModel

THREAT = ThreatModel("linf", Pixels("8/255"))


class FakePGD:
    """The interface of torchattacks: prints, wants a device, draws from every generator."""

    def __init__(self, model, eps=8 / 255, alpha=2 / 255, steps=10):
        print("Failed to set device automatically")
        self.model, self.eps, self.alpha, self.steps = model, eps, alpha, steps

    def set_device(self, device):
        self.device = device

    def __call__(self, images, labels):
        images = images.to(self.device)
        drawn = torch.rand_like(images) + random.random() + float(np.random.rand()) - 1.5
        adv = (images + self.eps * drawn.clamp(-1, 1)).clamp(0, 1)
        for _ in range(self.steps):
            adv.requires_grad_()
            (grad,) = torch.autograd.grad(F.cross_entropy(self.model(adv), labels), adv)
            adv = images + (adv.detach() + self.alpha * grad.sign() - images).clamp(-self.eps, self.eps)
            adv = adv.clamp(0, 1)
        return adv


class Nowhere(FakePGD):
    def __call__(self, images, labels):
        return torch.full_like(images, torch.nan)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


@pytest.fixture
def images(net):
    x = torch.rand((12, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    return x, net(x).argmax(1)


def accuracy(net, outcome, y):
    return float((net(outcome.last).argmax(1) == y).float().mean())


def test_it_is_as_strong_as_what_it_wraps_and_leaves_nothing_behind(net, images, capsys):
    x, y = images
    attack = Wrapped.of(FakePGD, THREAT, view="gray", evaluations=1, alpha="2/255")
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    outcome = attack(Defense(Identity(), net).view("gray"), x, y)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert np.random.get_state()[1].tolist() == states[1] and capsys.readouterr().out == ""
    assert all(parameter.grad is None for parameter in net.parameters())
    assert accuracy(net, outcome, y) <= accuracy(net, PGD(THREAT, view="gray", steps=10)(net, x, y), y) + 0.1 < 0.7
    assert THREAT.distance(outcome.last, x).max() <= THREAT.eps * (1 + 1e-5)
    assert torch.equal(attack(net, x, y).last, outcome.last), "the same batch, the same draws"


def test_its_eps_is_the_budgets(net, images):
    small = ThreatModel("linf", 1e-4)
    assert THREAT.distance(Wrapped.of(FakePGD, small, view="gray")(net, *images).last, images[0]).max() <= 1.1e-4
    same = Wrapped.of(FakePGD, THREAT, view="gray", eps=8 / 255, evaluations=1)(net, *images)
    assert torch.equal(same.last, Wrapped.of(FakePGD, THREAT, view="gray", evaluations=1)(net, *images).last)
    with pytest.raises(ValueError, match=r"eps=0\.0627451, and the budget is linf 8/255; leave eps out"):
        Wrapped.of(FakePGD, THREAT, view="gray", eps="16/255")(net, *images)


def test_what_is_no_number_is_not_kept(net, images):
    assert torch.equal(Wrapped.of(Nowhere, THREAT, view="gray")(net, *images).last, images[0])


@pytest.mark.parametrize(("made", "message"), [
    (lambda: Wrapped(THREAT, wrapped="PGD"), "Wrapped needs a class such as torchattacks.PGD; got 'PGD'"),
    (lambda: Wrapped.of(FakePGD, THREAT, step=3), r"FakePGD cannot be built with .*'step'"),
    (lambda: Wrapped.of("collections.abc.Nothing", THREAT), "collections has no abc.Nothing: there is no 'Nothing'"),
])  # fmt: skip
def test_mistakes_are_told(made, message, net, images):
    with pytest.raises(ValueError, match=message):
        made()(net, *images)


def test_where_the_library_is_absent_its_name_is_told(net, images):
    attack = Wrapped.of("no_such_attacks.PGD", THREAT)
    with pytest.raises(ImportError, match="pip install no_such_attacks"):
        attack(net, *images)


def test_a_configuration_says_all_of_it(net, images):
    pytest.importorskip("foolbox")
    told = {"class_path": "lit_pursamere.attacks.Wrapped", "init_args": {
        "view": "gray", "evaluations": 1, "wrapped": "foolbox.attacks.LinfPGD", "arguments": {"steps": 3}}}  # fmt: skip
    attack = build(Attack, told).within(THREAT)
    assert [*by_name(attack, False)] == ["LinfPGD-gray"]
    x, y = images
    outcome = attack(net, x, y)
    assert accuracy(net, outcome, y) < 0.9
    again = build(Attack, configuration(attack))
    assert again == attack and torch.equal(again(net, x, y).last, outcome.last)


@pytest.mark.parametrize("name", ["L2CarliniWagnerAttack", "LinfDeepFoolAttack", "LinfFastGradientAttack"])
def test_attacks_of_foolbox(name, net, images):
    foolbox = pytest.importorskip("foolbox")
    arguments = {"steps": 20, "binary_search_steps": 1} if name.startswith("L2Carlini") else {}
    attack = Wrapped.of(getattr(foolbox.attacks, name), THREAT, "gray", 1, **arguments)
    assert accuracy(net, attack(net, *images), images[1]) < 1


@pytest.mark.parametrize(("name", "arguments"), [
    ("PGD", {}), ("APGDT", {}), ("Square", {"n_queries": 100}), ("CW", {"steps": 20}), ("MIFGSM", {}),
])  # fmt: skip
def test_attacks_of_torchattacks(name, arguments, net, images):
    torchattacks = pytest.importorskip("torchattacks")
    attack = Wrapped.of(getattr(torchattacks, name), THREAT, "gray", 1, **arguments)
    assert accuracy(net, attack(net, *images), images[1]) < 1
    with pytest.raises(ValueError, match="torchattacks has no PDG: there is no 'PDG'"):
        Wrapped.of("torchattacks.PDG", THREAT)(net, *images)
