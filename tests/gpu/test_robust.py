"""Adversarial trainings that share a fixed time: what is measured, what comes back, and what a fault costs."""

import json

import pytest

from lit_pursamere.networks import WideResNet
from lit_pursamere.weights import load_weights


@pytest.fixture
def robust(script):
    return script("robust")


def test_one_training_is_timed_and_attacked(robust, tmp_path, capsys):
    report = robust.main(["--toy", f"--out={tmp_path}", "--only", "behind"])
    assert report["faults"] == {} and report["left_out"] == []
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report))
    trained, found = report["results"]["behind: train"], report["results"]["behind: attack"]
    assert trained["steps"] == 3 and trained["steps/s"] > 0
    assert list(found) == ["clean", "bpda2", "exact2"] and {cell["n"] for cell in found.values()} == {4}
    assert all(cell["interval"][0] <= cell["accuracy"] <= cell["interval"][1] for cell in found.values())
    load_weights(WideResNet(10, 1, mean=robust.MEAN, std=robust.STD), tmp_path / "robust-behind.safetensors")


@pytest.mark.slow
def test_all_of_them_and_what_is_out_of_time(robust, tmp_path):
    report = robust.main(["--toy", f"--out={tmp_path}"])
    assert report["faults"] == {} and [*report["results"]] == [
        "prepare", *(f"{name}: {part}" for name in robust.NAMES for part in ("train", "attack"))
    ]  # fmt: skip
    assert "PGD2" in report["results"]["alone: attack"] and "exact2" in report["results"]["exact: attack"]
    none = robust.main(["--toy", f"--out={tmp_path}", "--minutes=0.0001"])
    assert "alone: train" not in none["results"] and none["left_out"]
