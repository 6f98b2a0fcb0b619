"""Of several networks in one file, `weights` decides; where it cannot, the file is refused with the names in it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lit_pursamere.cli.main import main
from lit_pursamere.networks import WideResNet
from lit_pursamere.weights import inspect_weights, load_weights, read_weights


@pytest.fixture
def raw():
    return WideResNet(10, 1).state_dict()


@pytest.fixture
def ema(raw):
    return {name: tensor + 1 for name, tensor in raw.items()}


def under(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def loaded(path, weights="ema"):
    network = WideResNet(10, 1)
    load_weights(network, path, weights)
    return network.fc.bias


# Where the raw weights and the average stand, and what is beside them.
PARTS = [
    ("model.", "ema_model.module.", "ema_model.n_averaged"), ("net.", "ema.", "step"), ("", "ema.", "step"),
    ("online_model.", "ema_model.", "initted"), ("module.", "averaged_model.module.", "averaged_model.n_averaged"),
    ("a.net.", "a.net_ema.", "a.step"), ("generator.", "generator_swa.", "step"),
]  # fmt: skip


@pytest.mark.parametrize("container", ["lightning", "plain", "safetensors"])
@pytest.mark.parametrize(("first", "second", "beside"), PARTS)
def test_raw_weights_and_average_as_parts_of_one_module(tmp_path, raw, ema, first, second, beside, container):
    state = {**under(first, raw), **under(second, ema), **({} if first == "" else {beside: torch.tensor([7])})}
    content = {"state_dict": state, "pytorch-lightning_version": "2.5"} if container == "lightning" else state
    (save_file if container == "safetensors" else torch.save)(content, tmp_path / "w")
    for weights, wanted in (("ema", ema), ("raw", raw)):
        assert inspect_weights(tmp_path / "w", weights).weights == weights
        assert torch.equal(loaded(tmp_path / "w", weights), wanted["fc.bias"])


@pytest.mark.parametrize("key", ["model_ema_state_dict", "ema_model_state", "swa", "averaged_model"])
def test_an_average_under_any_name_that_says_so(tmp_path, raw, ema, key):
    torch.save({"model": raw, key: ema}, tmp_path / "w")
    for weights, wanted in (("ema", ema), ("raw", raw)):
        assert inspect_weights(tmp_path / "w", weights).weights == weights
        assert torch.equal(loaded(tmp_path / "w", weights), wanted["fc.bias"])


@pytest.mark.parametrize("weights", ["ema", "raw"])
@pytest.mark.parametrize("container", ["parts", "entries"])
def test_a_student_and_its_teacher(tmp_path, raw, ema, container, weights):
    parts = {**under("student.", raw), **under("teacher.", ema)}
    torch.save({"state_dict": parts} if container == "parts" else {"student": raw, "teacher": ema}, tmp_path / "w")
    with pytest.raises(ValueError, match="holds several networks: student, teacher; say which by weights: student"):
        loaded(tmp_path / "w", weights)
    assert torch.equal(loaded(tmp_path / "w", "student"), raw["fc.bias"])
    assert torch.equal(loaded(tmp_path / "w", "teacher"), ema["fc.bias"])
    assert inspect_weights(tmp_path / "w", "teacher").weights == "teacher"
    with pytest.raises(ValueError, match="student, teacher" if container == "entries" else "no weights called 'tutor'"):
        loaded(tmp_path / "w", "tutor")


@pytest.mark.parametrize("keys", [("model", "best_model"), ("ema_0.99", "ema_0.999")])
def test_two_entries_of_one_kind(tmp_path, raw, ema, keys):
    torch.save(dict(zip(keys, (raw, ema), strict=True)), tmp_path / "w")
    with pytest.raises(ValueError, match=f"several networks: {keys[0]}, {keys[1]}"):
        loaded(tmp_path / "w")
    assert torch.equal(loaded(tmp_path / "w", keys[1]), ema["fc.bias"])


def test_names_cannot_write_on_the_terminal(tmp_path):
    parts = {f"\x1b[2J{n}.{name}": torch.full((2,), float(n)) for n in range(50) for name in ("weight", "bias")}
    torch.save(parts, tmp_path / "w")
    with pytest.raises(ValueError, match="several networks: ") as caught:
        load_weights(torch.nn.BatchNorm1d(2, track_running_stats=False), tmp_path / "w")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_copies_of_one_network_are_no_question(tmp_path, raw):
    """The robustness library saves a classifier, and the same again inside of its attacker."""
    state = {**under("module.model.", raw), **under("module.attacker.model.", raw)}
    torch.save({"model": state}, tmp_path / "w")
    assert torch.equal(loaded(tmp_path / "w"), raw["fc.bias"])


def test_two_networks_of_which_one_fits(tmp_path, raw):
    other = under("classifier.", WideResNet(10, 2).state_dict())
    torch.save({**other, **under("a_much_longer_name.", raw)}, tmp_path / "w")
    assert torch.equal(loaded(tmp_path / "w"), raw["fc.bias"])


def test_layers_alike_are_no_networks(tmp_path):
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    torch.save(network.state_dict(), tmp_path / "w")
    load_weights(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), tmp_path / "w")
    with pytest.raises(ValueError, match="several networks: 0, 1"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "w")


def test_folders_of_a_training_with_diffusers(tmp_path):
    for name, number in (("unet", 0.0), ("unet_ema", 1.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
        save_file({"a": torch.tensor([number])}, tmp_path / name / "diffusion_pytorch_model.safetensors")
    for weights, number in (("ema", 1), ("raw", 0), ("unet_ema", 1), ("unet", 0)):
        assert read_weights(tmp_path, weights)["a"].item() == number
        assert inspect_weights(tmp_path, weights).weights == weights


def test_on_the_command_line(tmp_path, raw, ema, capsys):
    torch.save({"state_dict": {**under("student.", raw), **under("teacher.", ema)}}, tmp_path / "w")
    assert (
        main(["weights", "convert", str(tmp_path / "w"), str(tmp_path / "t.safetensors"), "--weights", "teacher"]) == 0
    )
    assert torch.equal(loaded(tmp_path / "t.safetensors"), ema["fc.bias"])
    assert main(["weights", "inspect", str(tmp_path / "w"), "--weights", "tutor"]) == 1
    assert "holds no weights called 'tutor'" in capsys.readouterr().err


def test_a_twin_beside_a_customary_entry_is_a_question(tmp_path, raw, ema):
    other = WideResNet(10, 2).state_dict()
    torch.save({"net": raw, "teacher": under("module.", ema), "critic": other}, tmp_path / "w")
    with pytest.raises(ValueError, match="holds several networks: net, teacher; say which by weights: net"):
        loaded(tmp_path / "w")
    assert torch.equal(loaded(tmp_path / "w", "teacher"), ema["fc.bias"])
    torch.save({"net": raw, "critic": other}, tmp_path / "w")
    assert torch.equal(loaded(tmp_path / "w"), raw["fc.bias"])
