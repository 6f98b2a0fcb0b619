"""What is written: a model card inside, the same bytes every time, and never half a file."""

from __future__ import annotations

import copy
import errno
import hashlib
import os
import sys

import pytest
import torch
from safetensors import safe_open

import lit_pursamere
from lit_pursamere.networks import WideResNet
from lit_pursamere.weights import (
    inspect_weights,
    model_card,
    read_weights,
    save_weights,
    state_digest,
    tensors_digest,
)
from lit_pursamere.weights.saving import write_tensors

FACTS = {
    name: f"value of {name}" for name in ("zeta", "alpha", "mü", 'quo"te', "back\\slash", "tab\t\x01", "omega", "nu")
}


def test_the_same_weights_make_the_same_bytes(tmp_path):
    """The library writes metadata in an order that changes from file to file."""
    tensors = {"b": torch.ones(2), "a": torch.zeros(3)}
    digests = {write_tensors(tensors, tmp_path / "w", FACTS) for _ in range(4)}
    digests.add(write_tensors(dict(reversed(tensors.items())), tmp_path / "w", dict(reversed(FACTS.items()))))
    assert digests == {hashlib.sha256((tmp_path / "w").read_bytes()).hexdigest()}
    with safe_open(tmp_path / "w", framework="pt") as file:
        assert file.metadata() == FACTS
        assert file.get_tensor("b").tolist() == [1, 1]


def test_tensors_that_share_memory(tmp_path):
    base = torch.arange(6.0)
    tensors = {
        "a": base,
        "b": base,
        "c": base[2:4],
        "d": base.reshape(2, 3).T,
        "e": torch.zeros(0),
        "f": torch.zeros(0),
    }
    write_tensors(tensors, tmp_path / "w")
    read = read_weights(tmp_path / "w")
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_on_a_full_disk_the_old_file_stays_and_one_line_says_so(tmp_path, monkeypatch):
    write_tensors({"a": torch.ones(1)}, tmp_path / "w")
    before = (tmp_path / "w").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*w: No space left on device"):
        write_tensors({"a": torch.zeros(1)}, tmp_path / "w")
    assert [entry.name for entry in tmp_path.iterdir()] == ["w"]
    assert (tmp_path / "w").read_bytes() == before


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_files_honour_the_umask(mask, mode, tmp_path):
    before = os.umask(mask)
    try:
        write_tensors({"a": torch.ones(1)}, tmp_path / "w")
    finally:
        os.umask(before)
    assert (tmp_path / "w").stat().st_mode & 0o777 == mode


def test_model_card(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/lit-pursamere", "fit", "--config", "configs/a b.yaml"])
    card = model_card(data="CIFAR10", ema_decay=0.999, steps=300, schedule=[50, 0.01], loss=None)
    assert card["command"] == "lit-pursamere fit --config 'configs/a b.yaml'"
    assert (card["data"], card["ema_decay"], card["steps"], card["schedule"]) == (
        "CIFAR10",
        "0.999",
        "300",
        "[50, 0.01]",
    )
    assert "loss" not in card
    assert card["lit_pursamere"] == lit_pursamere.__version__
    assert card["torch"] == torch.__version__.partition("+")[0] or card["torch"] == torch.__version__
    assert {"pytorch-lightning", "torchvision"} <= set(card)
    assert all(isinstance(text, str) for item in card.items() for text in item)


def test_model_card_of_a_module_run(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/lit_pursamere/__main__.py", "fit"])
    assert model_card()["command"] == "lit-pursamere fit"
    assert model_card(command="by hand")["command"] == "by hand"


def test_the_card_comes_back(tmp_path, ncsnv2):
    card = model_card(data="digits", steps=3)
    digest = save_weights(ncsnv2, tmp_path / "w.safetensors", card)
    found = inspect_weights(tmp_path / "w.safetensors")
    assert found.metadata == card and found.sha256 == digest


def test_digests_tell_apart_whatever_computes_otherwise():
    """Normalisation is part of a network, though no weight file holds it; shapes and names count."""
    networks = {mean: WideResNet(10, 1, mean=[mean] * 3, std=[0.2] * 3) for mean in (0.4, 0.5)}
    for network in networks.values():
        network.load_state_dict(networks[0.4].state_dict())
    assert state_digest(networks[0.4]) != state_digest(networks[0.5])
    assert state_digest(networks[0.4]) == state_digest(copy.deepcopy(networks[0.4]))
    tensors = {"a": torch.arange(6.0), "b": torch.ones(()).expand(1)}
    others = [
        {**tensors, "a": torch.arange(6.0).reshape(2, 3)},
        {**tensors, "a": torch.arange(6.0).double()},
        {"c": tensors["a"], "b": tensors["b"]},
        {**tensors, "b": torch.zeros(())},
    ]
    assert len({tensors_digest(t) for t in [tensors, dict(reversed(tensors.items())), *others]}) == 1 + len(others)
