"""Tiny-ImageNet as it is unpacked, made up: one small image a class to train on, two test images with their table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_pursamere.data import TinyImageNet

WNIDS = [f"n{number:08d}" for number in range(200)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(WNIDS):
        folder = top / "train" / wnid / "images"
        folder.mkdir(parents=True)
        Image.fromarray(np.full((64, 64), number, np.uint8)).save(folder / f"{wnid}_0.JPEG", quality=95)
        (top / "train" / wnid / f"{wnid}_boxes.txt").write_text("no image")
    (top / "val/images").mkdir(parents=True)
    for name, value in (("val_0.JPEG", 30), ("val_1.JPEG", 180)):
        Image.fromarray(np.full((64, 64, 3), value, np.uint8)).save(top / "val/images" / name, quality=95)
    (top / "val/val_annotations.txt").write_text(
        f"val_0.JPEG\t{WNIDS[7]}\t0\t0\t9\t9\nval_1.JPEG\t{WNIDS[150]}\t0\t0\t9\t9\n"
    )
    (top / "words.txt").write_text(f"{WNIDS[7]}\tcock, rooster\nn99999999\tnobody\n")
    return tmp_path


def test_training_images_are_grey_ones_in_colour_and_classes_follow_the_wnids(root):
    data = TinyImageNet(str(root))
    images = data.load("train")
    assert len(images) == 200 and data.num_classes == 200
    x, y = images[150]
    assert x.shape == (3, 64, 64) and y == 150 and x.mean().item() == pytest.approx(150 / 255, abs=2e-3)
    assert data.class_names[7] == "cock" and data.class_names[8] == WNIDS[8]


def test_the_test_images_are_the_validation_images_with_the_classes_of_their_table(root):
    data = TinyImageNet(str(root), eval_batch_size=2)
    data.setup("test")
    x, y, index = next(iter(data.predict_dataloader()))
    assert sorted(y.tolist()) == [7, 150] and index.tolist() == [0, 1]
    assert {round(float(value) * 255) for value in x.mean(dim=(1, 2, 3))} == {30, 180}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda top: (top / "val/val_annotations.txt").unlink(), "val_annotations.txt, which says the classes"),
        (lambda top: (top / "val/val_annotations.txt").write_text("x.JPEG n1\n"), "line 1 of .* got 'x.JPEG n1'"),
        (lambda top: (top / "val/val_annotations.txt").write_text(f"../x\t{WNIDS[0]}\n"), "line 1 of .*must be a file"),
        (lambda top: (top / "val/val_annotations.txt").write_text(""), "is empty"),
        (lambda top: (top / "val/images/val_1.JPEG").unlink(), "lacks 1 images of .*: val_1.JPEG"),
        (lambda top: (top / "train" / WNIDS[3]).rename(top / "n3"), "must have 200 classes; it has 199"),
        (lambda top: top.rename(top.with_name("other")), "unpack tiny-imagenet-200.zip there, or change `--data.root`"),
    ],
)
def test_what_is_missing_or_wrong_is_named(root, change, message):
    change(root / "tiny-imagenet-200")
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        TinyImageNet(str(root)).load("test")


def test_it_is_known_without_its_files(tmp_path):
    data = TinyImageNet(str(tmp_path))
    assert data.class_names[199] == "199" and data.counts["test"] == 10_000
