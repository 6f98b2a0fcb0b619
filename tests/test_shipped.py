"""Configurations and weights that come with the package are found by name, from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lit_pursamere import shipped
from lit_pursamere.cli.main import main
from lit_pursamere.configuration.composition import gathered, read_yaml
from lit_pursamere.weights import inspect_weights


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as a wheel installs it: both folders are inside."""
    package = tmp_path / "site-packages" / "lit_pursamere"
    (package / "configs/purifier").mkdir(parents=True)
    (package / "checkpoints/digits").mkdir(parents=True)
    (package / "configs/purifier/mine.yaml").write_text("class_path: Identity\n")
    (package / "checkpoints/digits/mine.safetensors").touch()
    monkeypatch.setattr(shipped, "PACKAGE", package)
    return package


@pytest.mark.parametrize("name", ["digits/robustness", "digits/robustness.yaml", "configs/digits/robustness.yaml"])
def test_a_configuration_is_found_by_name_from_any_folder(name, repository_root):
    assert read_yaml(Path(name)) == read_yaml(repository_root / "configs/digits/robustness.yaml")


def test_an_installed_package_has_them_inside(installed):
    assert shipped.configuration("purifier/mine") == installed / "configs/purifier/mine.yaml"
    assert shipped.shipped("checkpoints/digits/mine.safetensors") == installed / "checkpoints/digits/mine.safetensors"
    assert shipped.names_of() == ["purifier/mine"] and shipped.names_of(["model", "purifier"]) == ["mine"]


def test_files_of_the_current_folder_come_first(tmp_path):
    (tmp_path / "configs/digits").mkdir(parents=True)
    (tmp_path / "configs/digits/robustness.yaml").write_text("model: mine")
    assert read_yaml(Path("configs/digits/robustness.yaml")) == {"model": "mine"}
    assert "data" in read_yaml(Path("configs/digits/purify.yaml")), "the others are still there"


@pytest.mark.parametrize(("keys", "word", "file"), [
    ("model.purifier", "pursamere", "purifier/pursamere"), ("model.score_model", "digits", "score_model/digits"),
    ("model.classifier", "digits", "classifier/digits"), ("data", "digits", "data/digits"),
    ("model.attacks.gPGD20", "pgd20_gray", "attack/pgd20_gray"),
])  # fmt: skip
def test_a_part_is_found_by_the_word_alone(keys, word, file, repository_root, tmp_path):
    expected = read_yaml(repository_root / f"configs/{file}.yaml")
    content, nested = word, expected
    for key in reversed(keys.split(".")):
        content, nested = {key: content}, {key: nested}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    assert read_yaml(tmp_path / "mine.yaml") == nested
    assert gathered([f"--{keys}={word}"])[0] == nested


@pytest.mark.parametrize("word", ["PurSAMERE", "nothing", "../purifier/pursamere", "purifier/pursamere", "null"])
def test_no_other_word_names_a_part(word):
    assert shipped.part(word, ["model", "purifier"]) is None


@pytest.mark.parametrize("name", ["configs", "", ".", "/", "..", "../digits/robustness", "digits", "digits/nothing"])
def test_no_other_name_is_a_configuration(name):
    assert shipped.configuration(name) is None


@pytest.mark.parametrize("keys", [["model", "output"], ["model", "attacks"], []])
def test_no_other_place_takes_a_part_by_word(keys):
    assert shipped.part("pursamere", keys) is None


@pytest.mark.parametrize("path", ["/checkpoints/digits/score.safetensors", "../checkpoints", "checkpoints/../setup.cfg",
                                  "checkpoints/none.pth", "weights.pth", ""])  # fmt: skip
def test_no_other_path_is_led_to_the_package(path):
    assert str(shipped.shipped(path)) == (path or ".")


def test_weights_are_found_from_any_folder(repository_root):
    file = "checkpoints/digits/score.safetensors"
    assert inspect_weights(file).path == repository_root / file


@pytest.mark.parametrize(("args", "hint"), [
    (["test", "--config", "digits/robustnes"], "digits/robustness, which comes with the package"),
    (["test", "--config", "digits/robustness", "--model.purifier", "pursamer"], "pursamere"),
])  # fmt: skip
def test_nearly_a_name_gets_a_hint(args, hint, capsys):
    assert main(args) == 1
    assert f"did you mean {hint}?" in capsys.readouterr().err
