"""`purified inspect` tells what a set holds, measures it where originals are at hand, fails where it is not whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from lit_pursamere.cli.main import main
from lit_pursamere.data import Digits, PurifiedSet
from lit_pursamere.data.purified_checks import probe
from lit_pursamere.store.manifest import read_manifest, write_manifest

INDICES = list(range(0, 1400, 100))


@pytest.fixture
def made(tmp_path) -> PurifiedSet:
    """Fourteen training digits in four parts, each image darkened to a half."""
    source = Digits().load("train")
    told = {
        "data": "digits", "split": "train", "source": {"count": 1400, "means": probe(source, INDICES)},
        "purifier": {"class": "Half", "by": 0.5, "score_model": {"class": "None at all"}}, "weights": "abc",
    }  # fmt: skip
    made = PurifiedSet.create(tmp_path / "set", INDICES, (1, 8, 8), told, "float32", part=4)
    for number in range(made.parts):
        made.write(number, source.images[torch.from_numpy(made.part(number))] / 2)
    return made


def rows(text: str) -> dict[str, str]:
    return dict(line.strip().split("  ", 1) for line in text.splitlines() if "  " in line.strip())


def configured(made: PurifiedSet, **data) -> None:
    (made.path / "config.yaml").write_text(yaml.safe_dump({"data": {"class_path": "Digits", **data}, "trainer": {}}))


def test_everything_about_a_whole_set(made, capsys):
    configured(made, init_args={"purified": "nowhere"})
    assert main(["purified", "inspect", str(made.path), "--parts"]) == 0
    output = capsys.readouterr().out
    found = {name: value.strip() for name, value in rows(output).items()}
    assert found["data"] == "digits, 14 of 1400 train images"
    assert (found["purifier"], found["by"], found["score_model"]) == ("Half", "0.5", "None at all")
    assert found["parts"] == "4 of 4 with 4 images each" and found["undamaged"].startswith("4 of these")
    assert found["part 000003"] == f"sha256 {made.checksum(3)}"
    originals = Digits().load("train").images[INDICES]
    distance = (originals / 2).flatten(1).norm(dim=1)
    assert found["moved"].startswith(f"by {distance.mean():.4g} in l2 on average ({distance.min():.4g} to")
    assert found["pixels"] == "from 0 to 0.5"


def test_the_picture_shows_purified_images_alone_or_with_their_originals(made, tmp_path, capsys):
    sizes = []
    for name in ("alone", "pairs"):
        if name == "pairs":
            configured(made)
        args = ["purified", "inspect", str(made.path), "--picture", str(tmp_path / f"{name}.png"), "--images", "7"]
        assert main(args) == 0
        with Image.open(tmp_path / f"{name}.png") as picture:
            sizes.append(picture.size)
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20
    assert sizes[0][0] == sizes[1][0] == 900 and sizes[1][1] > 1.5 * sizes[0][1]
    assert "not at hand: there is no" in capsys.readouterr().out


def test_an_incomplete_and_damaged_set_is_told_and_fails(made, capsys):
    (made.path / "part-000000.npy").unlink()
    file = made.path / "part-000002.npy"
    file.write_bytes(file.read_bytes()[:-1])
    assert main(["purified", "inspect", str(made.path)]) == 1
    told = capsys.readouterr()
    assert rows(told.out)["undamaged"].strip().startswith("2 of these")
    assert "lacks 4 of 14 images (parts 0 of 4); run the same" in told.err and "(and 1 more)" in told.err


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class_path": "MNIST", "init_args": {"root": "nowhere", "download": True}}, "not at hand: "),
        ({"class_path": "Digitz"}, "not at hand: "),
        (None, "has no `data`"),
    ],
    ids=["missing", "unknown", "none"],
)
def test_originals_that_are_not_there_are_no_error(made, data, message, capsys):
    (made.path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    assert main(["purified", "inspect", str(made.path)]) == 0
    output = capsys.readouterr().out
    assert message in output and "moved" not in output


def test_there_is_no_set(tmp_path, capsys):
    assert main(["purified", "inspect", str(tmp_path)]) == 1
    assert "no purified set in" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["data", "split", "source", "purifier", "weights", "images", "dtype", "part"])
def test_a_set_that_does_not_say_what_it_was_made_from_is_refused(entry, made, capsys):
    manifest = read_manifest(made.path)
    write_manifest(made.path, {name: value for name, value in manifest.items() if name != entry})
    assert main(["purified", "inspect", str(made.path)]) == 1
    assert f"manifest.json is damaged: it does not state {entry}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["x.nope", "folder", "folder.png", "x"])
def test_a_picture_that_cannot_be_one_is_refused_before_the_work(name, made, capsys):
    (made.path / name).mkdir() if name.startswith("folder") else None
    assert main(["purified", "inspect", str(made.path), "--picture", str(made.path / name)]) == 1
    captured = capsys.readouterr()
    assert f"ends in .png, .pdf, .svg; got {made.path / name}" in captured.err and not captured.out
