"""Classifiers that others trained, as their configurations build them, are as right on test images as was measured."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.others import OTHERS, accuracy, measured
from lit_pursamere import load_classifier

# Of the first hundred test images, in %. On all of them: `python -m benchmarks.others`.
FIRST = {
    "cifar10/resnet20": 94, "cifar10/resnet56": 96, "cifar10/resnet4b-adv": 81, "cifar10/resnet18": 94,
    "mnist/lenet5": 99, "mnist/lenet5-adv": 100,
}  # fmt: skip


def images(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == "mnist":
        arrays = np.load(folder / "mnist.npz")
        return arrays["test_images"][:100], arrays["test_labels"][:100]
    arrays = np.load(folder / "cifar10_lossless.npz")
    test = arrays["split"] == "test"
    return arrays["images"][test][:100], arrays["labels"][test][:100]


@pytest.mark.parametrize(("name", "file", "data"), [other[:3] for other in OTHERS], ids=[other[0] for other in OTHERS])
def test_they_are_right_as_often_as_was_measured(repository_root, name, file, data):
    shared, wheel = repository_root / "../shared", find_spec("pyautoattack")
    models = Path(os.environ.get("LIT_PURSAMERE_MODELS", shared / "models"))
    if file == "model_test.pt" and wheel is not None and wheel.origin is not None:
        models = Path(wheel.origin).parent / "examples"
    folder = Path(os.environ.get("LIT_PURSAMERE_DATA", shared / "data"))
    if not ((models / file).is_file() and folder.is_dir()):
        pytest.skip("no networks of others here; set LIT_PURSAMERE_MODELS and LIT_PURSAMERE_DATA to their folders")
    found = accuracy(load_classifier(name, checkpoint=str(models / file)), *images(folder, data))
    assert found == pytest.approx(FIRST[name], abs=1), "of a hundred, one may be a matter of rounding"


def test_networks_and_images_that_are_absent_are_left_out(tmp_path):
    assert not list(measured(tmp_path, {"mnist": tmp_path / "mnist.npz"}))
