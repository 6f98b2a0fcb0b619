"""Accuracy of classifiers that others trained, on official test images, beside what is stated of them.

    python -m benchmarks.others MODELS cifar10=cifar10.npz mnist=mnist.npz

MODELS holds the files; an .npz has test_images (N, H, W, C) or (N, H, W) of uint8 and test_labels. Each network is
built as its configuration in configs/classifier/ says.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lit_pursamere import load_classifier
from lit_pursamere.data.arrays import to_nchw

# Name of the weights, their file, the images, how many of them from the first on, and the accuracy stated, in %.
OTHERS = (
    ("cifar10/resnet20", "cifar10_resnet20.th", "cifar10", 10_000, 91.73),
    ("cifar10/resnet56", "cifar10_resnet56.th", "cifar10", 10_000, 93.39),
    ("cifar10/resnet4b-adv", "cifar10_resnet4b_adv.pth", "cifar10", 10_000, 77.20),
    ("cifar10/resnet18", "model_test.pt", "cifar10", 1_000, 93.7),
    ("mnist/lenet5", "mnist_lenet5_clntrained.pt", "mnist", 10_000, 98.89),
    ("mnist/lenet5-adv", "mnist_lenet5_advtrained.pt", "mnist", 10_000, 98.64),
)


def accuracy(network: nn.Module, images: np.ndarray, labels: np.ndarray) -> float:
    """Share of uint8 images that a classifier is right about, in %."""
    right = 0
    with torch.inference_mode():
        for first in range(0, len(images), 250):
            x = torch.from_numpy(to_nchw(images[first : first + 250])).float() / 255
            right += int((network(x).argmax(1).numpy() == labels[first : first + 250]).sum())
    return 100 * right / len(images)


def measured(models: Path, data: dict[str, Path]) -> Iterator[tuple[str, int, float, float]]:
    """Name, number of images, accuracy stated and accuracy measured of every network whose file is there."""
    for name, file, images, count, stated in OTHERS:
        if (models / file).is_file() and images in data:
            arrays = np.load(data[images])
            x, y = arrays["test_images"][:count], arrays["test_labels"][:count]
            yield name, count, stated, accuracy(load_classifier(name, checkpoint=str(models / file)), x, y)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("data", nargs="+", help="NAME=FILE.npz")
    given = parser.parse_args()
    data = {name: Path(file) for name, _, file in (word.partition("=") for word in given.data)}
    for name, count, stated, found in measured(given.models, data):
        print(f"{name:22} first {count:6,} test images: {found:.2f} % (stated {stated:g} %)", flush=True)


if __name__ == "__main__":
    main()
