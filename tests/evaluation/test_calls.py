"""Calls are counted by forward hooks, in images; the package patches no method of anything."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import lit_pursamere
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


FOREIGN = ("library",)  # an attack of pyautoattack, which takes its loss in no other way
FILES = sorted(Path(lit_pursamere.__file__).parent.rglob("*.py"))


def patches(tree: ast.Module) -> list[str]:
    """What looks like a mock, or like a function that is put in the place of a method of an object."""
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            found += [module for module in modules if module.split(".")[0] in ("unittest", "mock")]
        if isinstance(node, ast.Assign):
            attributes = [target for target in node.targets if isinstance(target, ast.Attribute)]
            to_attribute = any(ast.unparse(target.value) not in FOREIGN for target in attributes)
            a_function = isinstance(node.value, ast.Lambda) or getattr(node.value, "id", None) in functions
            found += [ast.unparse(node)] if to_attribute and a_function else []
    return found


def test_what_counts_as_a_patch():
    patched = "import unittest.mock\nfrom unittest import mock\nx.f = lambda: 1\ndef g(): pass\n"
    assert patches(ast.parse(patched)) == ["unittest.mock", "unittest", "mock", "x.f = lambda: 1"]
    assert patches(ast.parse("def g(): pass\nx.f = g")) == ["x.f = g"]
    assert patches(ast.parse("x.f = 1; f = lambda: 1; x.f = y")) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FILES[0].parent)))
def test_the_package_patches_nothing(file):
    assert patches(ast.parse(file.read_text(encoding="utf-8"))) == []
