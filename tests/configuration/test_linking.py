"""The word `data` in the place of a network's channels, image_size and num_classes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lit_pursamere.cli.lightning import command_line
from lit_pursamere.cli.main import main
from lit_pursamere.cli.plan import read_plan
from lit_pursamere.configuration.building import build
from lit_pursamere.configuration.composition import compose
from lit_pursamere.configuration.linking import linked
from lit_pursamere.data import ImageDataModule
from lit_pursamere.diffusion import ScoreModel

SCORE = {"class_path": "NCSNv2Score", "init_args": {"ngf": 2, "channels": "data", "image_size": "data"}}
NETWORK = {
    "class_path": "WideResNet",
    "init_args": {"depth": 10, "width": 1, "channels": "data", "num_classes": "data"},
}
TEST = {
    "class_path": "lit_pursamere.tasks.LitRobustness",
    "init_args": {
        "threat": {"norm": "linf", "eps": "8/255"},
        "purifier": {"class_path": "PurSAMERE", "init_args": {"sigmas": [0.2]}},
        "score_model": SCORE,
        "classifier": {"class_path": "lit_pursamere.weights.trained", "init_args": {"network": NETWORK}},
        "attacks": {"FGSM": {"class_path": "PGD", "init_args": {"steps": 1, "view": "gray"}}},
    },
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with pictures of two classes, arrays of three, and a configuration of a test of neither."""
    monkeypatch.chdir(tmp_path)
    for split, name in ((split, name) for split in ("train", "test") for name in ("cat", "dog")):
        (tmp_path / "photos" / split / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "photos" / split / name / "0.png")
    np.savez("mine.npz", test_images=np.zeros((3, 12, 12), np.uint8), test_labels=np.arange(3))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"model": TEST}))
    return tmp_path


def numbers(config: dict) -> tuple[int, int, int, int]:
    """channels and image_size of the score model, channels and num_classes of the classifier."""
    told = config["model"]["init_args"]
    network = told["classifier"]["init_args"]["network"]["init_args"]
    score = told["score_model"]["init_args"]
    return score["channels"], score["image_size"], network["channels"], network["num_classes"]


def composed(*args: str) -> dict:
    return json.loads(compose(["test", "--config=test.yaml", *args])[1].removeprefix("--config="))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (["--data=Digits"], (1, 8, 1, 10)),
        (["--data=cifar100"], (3, 32, 3, 100)),
        (["--data=lit_pursamere.data.FashionMNIST", "--data.test_size=4"], (1, 28, 1, 10)),
        (["--data=ImageFolder", "--data.root=photos", "--data.image_size=16"], (3, 16, 3, 2)),
        (["--data=ImageFolder", "--data.init_args.root=photos", "--data.channels=1"], (1, 32, 1, 2)),
        (["--data=NPZ", "--data.path=mine.npz"], (1, 12, 1, 3)),
    ],
)
def test_the_word_stands_for_what_the_data_say(place, data, expected):
    assert numbers(composed(*data)) == expected


def test_numbers_that_are_told_stay_and_options_take_the_word(place):
    told = "--model.score_model.image_size"
    assert numbers(composed("--data=Digits", f"{told}=16", "--model.classifier.network.num_classes=7")) == (
        1,
        "16",
        1,
        "7",
    )
    for option in (told, "--model.score_model.init_args.image_size"):
        assert numbers(composed("--data=Digits", f"{told}=16", option, "data")) == (1, 8, 1, 10)


def test_nothing_is_built_where_the_word_does_not_stand():
    config = {
        "model": {"class_path": "A", "init_args": {"path": "data", "channels": 3}},
        "data": {"class_path": "None"},
    }
    assert linked(config, pytest.fail) == config and linked({}, pytest.fail) == {}


UNTOLD = """
from lit_pursamere.data import Digits

class Untold(Digits):
    num_classes = None  # until it is read
"""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            [],
            r"^model\.[\w.]+\.channels is `data`, and the configuration has no data: give it --data, or a number$",
        ),
        (
            ["--data=untold_data.Untold"],
            r"^model\.classifier\.network\.num_classes is `data`, and Untold does not say it",
        ),
        (["--data=ImageFolder", "--data.root=nowhere"], r"expected nowhere/train/<class>"),
        (["--data=NPZ"], r"path"),
    ],
    ids=["none", "untold", "nowhere", "no path"],
)
def test_data_that_do_not_say_it_are_one_line(place, data, message, monkeypatch):
    (place / "untold_data.py").write_text(UNTOLD)
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        composed(*data)
    assert "\n" not in str(caught.value)


def test_a_part_without_data_is_refused_in_one_line(place, capsys):
    with pytest.raises(
        ValueError, match=r"^channels is `data`, and here no data come with the network: give a number$"
    ):
        build(ScoreModel, SCORE)
    (place / "score.yaml").write_text(yaml.safe_dump(SCORE))
    assert main(["purify", "photos/test/cat", "out", "--purifier=PurSAMERE", "--score_model=score.yaml"]) == 1
    assert "error: score_model.channels is `data`, and here no data come" in capsys.readouterr().err


def test_what_is_parsed_and_kept_are_numbers(place):
    cli = command_line(["--config=test.yaml", "--data=ImageFolder", "--data.root=photos"], run=False)
    assert numbers(cli.config.as_dict()) == (3, 32, 3, 2)
    assert (
        isinstance(cli.datamodule, ImageDataModule)
        and cli.model.systems["PurSAMERE"].purifier.score_model.network.image_size == 32
    )


def test_a_comparison_takes_the_word(place):
    Path("compare.yaml").write_text(
        yaml.safe_dump(
            {
                "output": "runs",
                "test": {"model": TEST, "data": {"class_path": "Digits"}},
                "purifiers": {"none": "Identity"},
            }
        )
    )
    words = read_plan("compare.yaml").arguments("none")
    assert numbers(json.loads(compose(words)[0].removeprefix("--config="))) == (1, 8, 1, 10)


def test_an_estimate_takes_the_word(place, capsys):
    words = ["--config=test.yaml", "--data=FashionMNIST", "--data.test_size=4", "--model.output=out"]
    assert main(["estimate", "test", *words]) == 0
    assert "PurSAMERE, FGSM" in capsys.readouterr().out
