"""Calls are counted by forward hooks, in images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_pursamere.diffusion import AutoencoderScore
from lit_pursamere.evaluation.calls import Calls, counting, networks_of
from lit_pursamere.purifiers import COUP, MALADE, Identity, Purifier, PurSAMERE


def test_calls_and_gradients_are_counted_in_images():
    network, x = nn.Linear(4, 2), torch.rand(3, 4, requires_grad=True)
    with counting({"net": network}) as calls:
        network(x)
        network(x).sum().backward()
        with torch.no_grad():
            network(x[:2])
    assert calls == {"net": Calls(forward=8, backward=3)} and not network._forward_hooks
    network(x)
    assert calls["net"].forward == 8


def test_hooks_are_removed_when_something_fails():
    network = nn.Identity()
    with pytest.raises(ZeroDivisionError), counting({"net": network}):
        raise ZeroDivisionError
    assert not network._forward_hooks


def test_networks_are_the_submodules_of_purifiers(mixture, linear_classifier):
    class Twice(Purifier):
        def __init__(self, inner: Purifier) -> None:
            super().__init__(seed=0)
            self.inner = inner

        def purify(self, x, noise):
            return self.inner(x)

    coup = COUP(mixture, linear_classifier)
    assert networks_of(coup) == {"score_model": mixture, "classifier": linear_classifier}
    assert networks_of(Twice(coup)).keys() == {"inner.score_model", "inner.classifier"}
    assert networks_of(Identity()) == {}


def test_a_score_model_is_one_network_whatever_is_in_it(images):
    class Both(nn.Module):
        """Two networks that are asked together."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x):
            return (self.a(x) + self.b(x)) / 2

    for purifier, expected in (
        (MALADE(AutoencoderScore(Both()), steps=3, seed=0), Calls(24, 0)),
        (PurSAMERE(AutoencoderScore(Both(), 0.04), rho_sam=0.0, draws=2, sigmas=[0.2]), Calls(16, 16)),
    ):
        with counting(networks_of(purifier)) as calls, torch.no_grad():
            purifier(images)
        assert calls == {"score_model": expected}
