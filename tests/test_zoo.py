"""Classifiers of other libraries by name: their normalisation comes along, and nothing is downloaded unasked."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch import nn

from lit_pursamere import evaluate, load_classifier
from lit_pursamere.cli.main import main
from lit_pursamere.front.named import network_of
from lit_pursamere.networks import Normalised

SMALL, FILE = "torchvision:shufflenet_v2_x0_5", "shufflenetv2_x0.5-f707e7126e.pth"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty folder of downloads; whoever downloads fails."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *arguments: pytest.fail("downloaded"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub/checkpoints"


def published():
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    return models.shufflenet_v2_x0_5().eval()


def test_torchvision_with_the_normalisation_of_its_weights(hub):
    network, x = published(), torch.rand(1, 3, 32, 32)
    hub.mkdir(parents=True)
    torch.save(network.state_dict(), hub / FILE)
    found = load_classifier(SMALL)
    assert torch.equal(found(x), Normalised(network, MEAN, STD)(x)) and not found.training
    for way in (load_classifier(f"{SMALL}(IMAGENET1K_V1)"), network_of(SMALL, str(hub / FILE))):
        assert torch.equal(way(x), found(x))
    result = evaluate(found, (x, [3]), purifier=None, attacks="fgsm", output="run", pictures=0, progress=False)
    told = yaml.safe_load(result.configuration.read_text())["model"]["init_args"]["classifier"]["init_args"]["network"]
    assert told == {
        "class_path": "lit_pursamere.zoo.ZooClassifier",
        "init_args": {"name": SMALL, "mean": MEAN, "std": STD},
    }


def test_images_are_brought_to_the_size_that_a_network_wants(hub, tmp_path):
    network, x = published(), torch.rand(1, 3, 32, 32)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    found = load_classifier(SMALL, checkpoint=tmp_path / "own.pth", resize=48)
    assert torch.equal(found(x), Normalised(network, MEAN, STD, resize=48)(x))
    assert not torch.equal(found(x), Normalised(network, MEAN, STD)(x))


def test_only_who_asks_for_it_downloads(hub, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"not on this machine: --download .* gets them, https://.*" + FILE):
        load_classifier(SMALL)
    asked = []

    def download(url, target, digest):
        asked.append((url.rpartition("/")[2], digest))
        torch.save(published().state_dict(), target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    load_classifier(SMALL, download=True)
    load_classifier(SMALL)
    assert asked == [(FILE, "f707e7126e")]


@pytest.mark.parametrize(("name", "message"), [
    ("torchvision:resnet81", "torchvision has no classifier resnet81; it has resnet"),
    ("torchvision:resnet18(V7)", "resnet18 has no weights V7; it has IMAGENET1K_V1"),
    ("torchvision:", "names no classifier of another library; write torchvision:resnet50"),
])  # fmt: skip
def test_mistakes_are_told(name, message, hub):
    pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=message):
        load_classifier(name)


@pytest.mark.parametrize("name", ["timm:resnet18", "robustbench:Standard(cifar10, Linf)"])
def test_where_a_library_is_absent_its_name_is_told(name, monkeypatch):
    for module in ("timm", "robustbench", "robustbench.model_zoo"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"{name.partition(':')[0]} is not installed: pip install"):
        load_classifier(name)


def test_it_is_normalised_once(hub, capsys):
    assert main(["evaluate", SMALL, "photos", "--normalise", "0.5", "0.5"]) == 1
    assert "brings the normalisation of its weights; leave --normalise out" in capsys.readouterr().err


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))


def test_timm(tmp_path, monkeypatch):
    told = SimpleNamespace(
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), hf_hub_id="timm/tiny", url="", hf_hub_filename=None
    )
    fake = SimpleNamespace(
        is_model=lambda name: name == "tiny.a1", list_models=lambda: ["tiny.a1"], get_pretrained_cfg=lambda name: told,
        create_model=lambda name, pretrained: None if pretrained else linear(),
    )  # fmt: skip
    cache: list[Path] = []

    def download(repository, entry):
        assert (repository, entry) == ("timm/tiny", "model.safetensors")
        torch.save(linear().state_dict(), tmp_path / "model.pth")
        cache.append(tmp_path / "model.pth")
        return str(cache[0])

    hub = SimpleNamespace(hf_hub_download=download, try_to_load_from_cache=lambda *_: str(cache[0]) if cache else None)
    monkeypatch.setitem(sys.modules, "timm", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    with pytest.raises(FileNotFoundError, match=r"--download .* timm/tiny/model\.safetensors"):
        load_classifier("timm:tiny.a1")
    x = torch.rand(2, 3, 4, 4)
    expected = Normalised(linear(), told.mean, told.std)(x)
    assert torch.equal(load_classifier("timm:tiny.a1", download=True)(x), expected)
    assert torch.equal(load_classifier("timm:tiny.a1")(x), expected)
    with pytest.raises(ValueError, match=r"timm has no model tinny\.a1; it has tiny\.a1"):
        load_classifier("timm:tinny.a1")


def test_robustbench(tmp_path, monkeypatch):
    dataset, threat = Enum("Data", {"cifar_10": "cifar10"}), Enum("Threat", {"Linf": "Linf"})
    table = {dataset.cifar_10: {threat.Linf: {"Standard": {"model": linear, "gdrive_id": "an-id"}}}}

    def download(identity, target):
        assert identity == "an-id"
        torch.save({"state_dict": {f"module.{name}": value for name, value in linear().state_dict().items()}}, target)

    monkeypatch.setitem(sys.modules, "robustbench", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "robustbench.model_zoo", SimpleNamespace(model_dicts=table))
    monkeypatch.setitem(sys.modules, "robustbench.utils", SimpleNamespace(download_gdrive=download))
    monkeypatch.chdir(tmp_path)
    name, x = "robustbench:Standard(cifar10, Linf)", torch.rand(2, 3, 4, 4)
    with pytest.raises(FileNotFoundError, match="--download"):
        load_classifier(name)
    assert torch.equal(load_classifier(name, download=True)(x), linear()(x)), "it normalises for itself, if at all"
    assert Path("models/cifar10/Linf/Standard.pt").is_file() and load_classifier(name)
    for wrong, message in (("Standard(cifar100, Linf)", r"has no \(cifar100, Linf\); it has \(cifar10, Linf\)"),
                           ("Standart(cifar10, Linf)", "has no Standart .*; it has Standard")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load_classifier(f"robustbench:{wrong}")
