"""An own class, own weights and own pictures on a command line; a project of one's own that runs."""

from __future__ import annotations

import json
import re
import sys
import textwrap

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lit_pursamere.cli.main import main
from lit_pursamere.cli.spelling import check_words
from lit_pursamere.configuration.composition import compose
from lit_pursamere.store import read_rows

NETWORK = """
    from torch import nn

    class Small(nn.Module):
        def __init__(self, classes, width=4):
            super().__init__()
            self.classes = classes
            self.net = nn.Sequential(nn.Conv2d(1, width, 3), nn.Flatten(), nn.Linear(36 * width, classes))

        def forward(self, x):
            return self.net(x)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a module, the weights of its inner network, and pictures in class folders."""
    (tmp_path / "smallnet.py").write_text(textwrap.dedent(NETWORK))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("smallnet", None)
    from smallnet import Small

    torch.manual_seed(0)
    torch.save(Small(3).net.state_dict(), "mine.pt")
    draw = np.random.default_rng(0)
    for name in "abc":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            picture = draw.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path


OWN = ["evaluate", "smallnet:Small", "mine.pt", "photos", "--purifier=Identity", "--threat=linf 0.1", "--n=4"]
THREE = ["--arguments={classes: 3}".replace("classes", '"classes"')]


def test_an_own_classifier_on_own_pictures(place, capsys):
    (place / "my.fgsm.yaml").write_text("{class_path: PGD, init_args: {steps: 1, view: bpda}}")
    assert main([*OWN, *THREE, "--normalise", "0.5", "0.25", "--attacks", "quick", "my.fgsm.yaml", "--output=out"]) == 0
    out = capsys.readouterr().out
    assert all(f"| {name} " in out for name in ("clean", "gPGD20", "BPDA20", "my.fgsm", "worst case"))
    assert "next: lit-pursamere audit --config out/config.yaml" in out.splitlines()[-1]
    told = yaml.safe_load((place / "out/config.yaml").read_text())["model"]["init_args"]["classifier"]
    assert told["class_path"] == "lit_pursamere.networks.Normalised" and told["init_args"]["std"] == [0.25]
    assert told["init_args"]["network"]["init_args"]["network"] == {
        "class_path": "smallnet.Small", "init_args": {"classes": 3},
    }  # fmt: skip
    assert main(["test", "--config=out/config.yaml", "--model.output=again"]) == 0
    keys = ("index", "label", "attack", "margin_last", "votes_any")
    first, second = ([[row[key] for key in keys] for row in read_rows(name)] for name in ("out", "again"))
    assert first == second and len(first) == 4 * 4


@pytest.mark.parametrize(("args", "message"), [
    ([*OWN], r"Small\(classes, width=4\) cannot be built with the arguments \{\}"),
    ([*OWN, "--arguments={"], "--arguments '{' is no JSON"),
    ([*OWN, '--arguments={"classes": 4}'], r"mine\.pt does not fit this Sequential: .*shapes differ"),
    (["evaluate", "smallnet:Smal", "mine.pt", "photos"], "there is no Smal in smallnet"),
    (["evaluate", "nonet:Small", "mine.pt", "photos"], "No module named 'nonet'"),
    (["evaluate", "smallnet:Small", "photos"], "smallnet:Small needs its weights"),
    (["evaluate", "smallnet:Small", "photos", "--attacks", "quik"], "no attack is called quik"),
    (["evaluate", "cifar10/standard", "photos", "--attacks", "quick", "pgd20_exat"], "no attack is called pgd20_exat"),
    (["evaluate", "digits/wrn-10-2-pair", "photos"], "did you mean digits/wrn-10-2-pairs"),
    (["evaluate", "digits/wrn-10-2-pairs", "nowhere"], "no folder or file nowhere, and no data set"),
    ([*OWN, *THREE, "--normalise", "0.5"], "means and as many deviations; got 1"),
    ([*OWN, *THREE, "--attacks", "quik"], "quik"),
    ([*OWN, *THREE, "--purifer", "x"], "did you mean --purifier"),
    ([*OWN[:4], *THREE, "--purifier=pursamere_small"], r"score model EDMScore is for 3 channel.*\(1, 8, 8\) have 1: "),
    (["evaluate", "smallnet:Small", "mine.pt", "photos/a", *THREE], "photos/a has no class folders"),
])  # fmt: skip
def test_mistakes_are_one_line(args, message, place, capsys):
    assert main(args) in (1, 2)
    assert re.search(message, capsys.readouterr().err)


def sized(network, file):
    """The arguments of a network in a configuration of a project."""
    config = json.loads(compose(["fit", f"--config={file}"])[1].removeprefix("--config="))
    return config["model"]["init_args"][network]["init_args"]


@pytest.mark.parametrize("images", ["digits", "photos.npz"])
def test_a_project_is_sized_by_the_images(images, place, capsys):
    draw = np.random.default_rng(0)
    pixels, labels = draw.integers(0, 256, (20, 3, 12, 12), dtype=np.uint8), np.arange(20) % 4
    np.savez(place / "photos.npz", train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    assert main(["init", "project", f"--images={images}", "--threat=linf 0.1"]) == 0
    assert "next: cd project && lit-pursamere experiment experiment.yaml" in capsys.readouterr().out
    channels, size, classes = (1, 8, 10) if images == "digits" else (3, 12, 4)
    assert sized("score_model", "project/score.yaml") == {"ngf": 16, "channels": channels, "image_size": size}
    assert (
        sized("classifier", "project/classifier.yaml").items() >= {"channels": channels, "num_classes": classes}.items()
    )
    purifier = yaml.safe_load((place / "project/purifier.yaml").read_text())["init_args"]
    assert purifier["rho_pur"] == pytest.approx(1.25 * 0.1 * (channels * size**2) ** 0.5, rel=0.01)
    assert main(["init", "project"]) == 1
    assert "project is there already" in capsys.readouterr().err


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_project_takes_shape_and_classes_from_the_pictures(mode, channels, place, capsys):
    assert main(["init", "project", "--images=photos"]) == 1
    assert "photos has no images to train on: a project wants photos/train/<class>" in capsys.readouterr().err
    for split in ("train", "test"):
        for name in "abc":
            (place / "mine" / split / name).mkdir(parents=True)
            for number in range(4):
                shade = Image.new("L", (9, 9), 60 * number).convert(mode)
                shade.save(place / "mine" / split / name / f"{number}.png")
    assert main(["init", "project", "--images=mine"]) == 0
    assert sized("score_model", "project/score.yaml") == {"ngf": 16, "channels": channels, "image_size": 9}
    assert main(["init", "other", "--images=mine", "--image_size=12"]) == 0
    assert yaml.safe_load((place / "other/data.yaml").read_text())["init_args"]["image_size"] == 12


def test_a_doubt_is_told_as_by_every_verb(place, capsys, recwarn):
    for file in place.glob("photos/*/*.png"):
        Image.linear_gradient("L").resize((8, 8)).point(lambda value: 120 + value // 64).save(file)
    assert main([*OWN[:4], *THREE, "--purifier=Identity", "--attacks", "pgd20_gray", "--output=out"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "stretch them" in line]
    assert len(told) == 1 and told[0].startswith("lit-pursamere: doubt: pixels range from 0.47")
    assert not [one for one in recwarn if "stretch them" in str(one.message)]


def test_a_project_s_score_model_takes_the_shape_of_the_images_that_are_evaluated(place, monkeypatch):
    score = {"class_path": "NCSNv2Score", "init_args": {"ngf": 2, "channels": "data", "image_size": "data"}}
    (place / "score.yaml").write_text(yaml.safe_dump(score))
    purifier = '{"class_path": "PurSAMERE", "init_args": {"draws": 1, "sigmas": [0.2]}}'
    (place / "purifier.yaml").write_text(purifier)
    words = ["--purifier=purifier.yaml", "--score_model=score.yaml", "--attacks", "pgd20_gray", "--output=out"]
    assert main([*OWN[:4], *THREE, *words, "--n=2", "--no-preflight"]) == 0
    told = yaml.safe_load((place / "out/config.yaml").read_text())["model"]["init_args"]["score_model"]
    assert told["init_args"] == {"ngf": 2, "channels": 1, "image_size": 8}


def test_a_score_model_that_is_not_here_is_told_with_those_that_are(place, capsys):
    assert main([*OWN[:4], *THREE, "--purifier=pursamere"]) == 1
    told = capsys.readouterr().err
    assert "cifar10/ncsnv2 are not on this machine" in told
    assert "Purifiers whose score model comes along: pursamere_small, pursamere_digits" in told


def test_every_command_of_a_project_is_spelt_right(place, monkeypatch):
    assert main(["init", "project"]) == 0
    monkeypatch.chdir(place / "project")
    for stage in yaml.safe_load((place / "project/experiment.yaml").read_text())["stages"]:
        verb, *words = stage.split()
        check_words(verb, words)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_project_runs(place, monkeypatch, capsys):
    assert main(["init", "project", "--threat=linf 0.1"]) == 0
    monkeypatch.chdir(place / "project")
    for file, settings in {
        "score.yaml": {"max_steps: 4000": "max_steps: 4"},
        "classifier.yaml": {"max_epochs: 30": "max_epochs: 1"},
        "robustness.yaml": {"test_size: 256": "test_size: 4", "attacks: {": "pictures: 0\n    attacks: {"},
        "purifier.yaml": {"stride: 1": "stride: 9"},
    }.items():
        text = (place / "project" / file).read_text()
        for before, after in settings.items():
            assert before in text
            text = text.replace(before, after)
        (place / "project" / file).write_text(text)
    assert main(["experiment", "experiment.yaml"]) == 0
    assert (place / "project/runs/robustness/report.md").is_file()
