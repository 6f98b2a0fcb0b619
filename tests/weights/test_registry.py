"""The registry of named weights: nothing in it is without a source, and what it says can be built."""

from __future__ import annotations

import re

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from lit_pursamere.configuration.building import know_names
from lit_pursamere.configuration.composition import NAMED, configuration_of, read_yaml
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.shipped import home
from lit_pursamere.weights import sha256
from lit_pursamere.weights.cache import cache_folder, located, path_of, state
from lit_pursamere.weights.registry import entries, find, score_model_of

CONFIGS = home("configs")
OTHERS = [entry for entry in entries().values() if not entry.shipped]
SHIPPED = [entry for entry in entries().values() if entry.shipped]
ROOTS = {"score model": ScoreModel, "classifier": nn.Module}


@pytest.mark.parametrize("entry", OTHERS, ids=lambda entry: entry.name)
def test_no_fact_about_files_of_others_is_without_its_page(entry):
    sources = dict(entry.sources or {})
    facts = {
        "address": any(file.url for file in entry.files),
        "by_hand": entry.by_hand,
        "licence": entry.licence,
        "published": entry.published,
        "size": any(file.size for file in entry.files),
        "sha256": any(file.sha256 for file in entry.files),
    }
    assert {fact for fact, stated in facts.items() if stated} == sources.keys()
    assert all(page.startswith("https://") or page == "measured on a copy of the file" for page in sources.values())
    assert all(file.url is None or re.match(r"https://[\w.-]+/", file.url) for file in entry.files)
    assert bool(entry.by_hand) == (None in [file.url for file in entry.files])


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)
def test_shipped_files_are_those_that_were_measured(entry):
    path = path_of(entry)
    assert (path.stat().st_size, sha256(path)) == (entry.size, entry.files[0].sha256)
    assert state(entry) == "shipped" and located(entry.name) == path


def test_every_shipped_file_has_a_name():
    folder = home("checkpoints")
    assert sorted(path_of(entry) for entry in SHIPPED) == sorted(folder.glob("*/*.safetensors"))


@pytest.mark.parametrize("entry", entries().values(), ids=lambda entry: entry.name)
def test_every_entry_builds_its_network(entry):
    """Of any size, since nothing is computed."""
    content = configuration_of(entry)
    assert content["init_args"]["checkpoint"] == entry.name
    content["init_args"]["checkpoint"] = None
    know_names()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=ROOTS[entry.kind])
    with torch.device("meta"):
        assert isinstance(parser.instantiate(parser.parse_object({"part": content})).part, ROOTS[entry.kind])


def test_configurations_name_their_own_entry():
    for folder, kind in NAMED.items():
        for file in (CONFIGS / folder).glob("*.yaml"):
            checkpoint = read_yaml(file)["init_args"]["checkpoint"]
            if not checkpoint.startswith("runs/"):  # what a training writes
                assert (find(checkpoint).build, find(checkpoint).kind) == (f"{folder}/{file.name}", kind)


def test_purifiers_have_the_score_models_of_their_papers():
    own = {file.stem for file in (CONFIGS / "purifier").glob("*.yaml") if score_model_of(file.stem)}
    without = {
        "identity",
        "malade",
        "magnet",
        "malade_digits",
        "magnet_digits",
        "denoised_smoothing",
    }  # those of the digits bring theirs
    assert own | without == {file.stem for file in (CONFIGS / "purifier").glob("*.yaml")} and not own & without
    assert {find(score_model_of(name)["score_model"]).kind for name in own} == {"score model"}


def test_a_mistyped_name():
    with pytest.raises(ValueError, match=r"no weights are called 'cifar10/edm-smal'; did you mean cifar10/edm-small\?"):
        find("cifar10/edm-smal")
    with pytest.raises(ValueError, match="no weights are called 'x'; lit-pursamere weights list shows all"):
        find("x")


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/ncsnv2").touch()
    assert located("digits/ncsnv2").resolve() == tmp_path / "digits/ncsnv2"


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("LIT_PURSAMERE_CACHE", str(tmp_path))
    assert path_of(find("cifar10/edm")) == tmp_path / "weights/cifar10/edm/edm-cifar10-32x32-uncond-vp.pkl"
    assert path_of(find("cifar10/ddpm")) == tmp_path / "weights/cifar10/ddpm"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LIT_PURSAMERE_CACHE", "~/here")
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("LIT_PURSAMERE_CACHE")
    assert cache_folder().name == "lit-pursamere" and tmp_path in cache_folder().parents
