"""Transfer: the source is attacked, the target never asked; what makes two transfer attacks equal."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, Transfer
from lit_pursamere.defense import Defense
from lit_pursamere.networks import WideResNet
from lit_pursamere.purifiers import Identity
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights import save_weights

THREAT = ThreatModel("linf", 0.05)


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the target was asked")


def test_the_source_is_attacked_and_the_target_never_asked(linear_classifier, images):
    y = linear_classifier(images).argmax(1)
    expected = PGD(THREAT, steps=3)(linear_classifier, images, y).last
    attack = Transfer(PGD(THREAT, "exact", steps=3), linear_classifier)
    outcome = attack(Silent(), images, y)
    assert torch.equal(outcome.last, expected) and torch.equal(outcome.any, expected)
    assert attack.threat == THREAT and attack.view == "gray"


def test_a_defence_is_a_source_too(linear_classifier, images):
    y = linear_classifier(images).argmax(1)
    attack = Transfer(PGD(THREAT, steps=3), Defense(Identity(), linear_classifier))
    assert torch.equal(attack(Silent(), images, y).last, PGD(THREAT, steps=3)(linear_classifier, images, y).last)


def test_weights_are_loaded_and_the_source_is_frozen(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained, fresh = WideResNet(10, 1), WideResNet(10, 1)
    save_weights(trained, tmp_path / "source.safetensors")
    from_file = Transfer(PGD(THREAT), fresh.train(), str(tmp_path / "source.safetensors"))
    assert from_file == Transfer(PGD(THREAT), deepcopy(trained))
    assert not fresh.training and not any(p.requires_grad for p in fresh.parameters())
    assert torch.equal(fresh.state_dict()["conv1.weight"], trained.state_dict()["conv1.weight"])


def test_it_is_a_value_that_knows_its_source(linear_classifier):
    one, same = (Transfer(PGD(THREAT), deepcopy(linear_classifier)) for _ in range(2))
    other = deepcopy(linear_classifier)
    with torch.no_grad():
        other[1].weight[0, 0] += 1
    other = Transfer(PGD(THREAT), other)
    assert one == same and hash(one) == hash(same) and repr(one) == repr(same)
    assert one != other and repr(one) != repr(other)
    assert one != Transfer(PGD(THREAT, steps=3), linear_classifier)
    assert "source_id='Sequential " in repr(one) and "Linear" not in repr(one) and "\n" not in repr(one)


def test_a_missing_checkpoint_is_an_error(linear_classifier, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Transfer(PGD(THREAT), linear_classifier, str(tmp_path / "nowhere.safetensors"))
