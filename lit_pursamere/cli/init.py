"""`lit-pursamere init`: a small project of one's own, sized by one's images.

lit-pursamere init mine --images photos
cd mine && lit-pursamere experiment experiment.yaml
"""

from __future__ import annotations

import os
from pathlib import Path

from lit_pursamere.configuration.building import build
from lit_pursamere.data import ImageDataModule
from lit_pursamere.data.folder import class_folders
from lit_pursamere.front.named import shape_of, told_of
from lit_pursamere.front.project import write_project
from lit_pursamere.threat import ThreatModel

__all__ = ["init"]

PATHS = ("root", "path")  # the project is run in its own folder
KEPT = (*PATHS, "download", "image_size", "channels")  # of what is told of the images; all else the project says


def init(
    name: str,
    images: str = "digits",
    threat: str = "linf 8/255",
    image_size: int | None = None,
    channels: int | None = None,
) -> None:
    """Write a small project: score model, purifier, classifier, test, and an experiment that runs them.

    Args:
        name: Folder to make.
        images: A folder with train/<class>/ and test/<class>/, an .npz file, or a data set: cifar10, cifar100, mnist,
            fashion_mnist, digits.
        threat: What attackers may change.
        image_size: Side in pixels to which pictures of a folder are brought (default: that of the first one).
        channels: 1 or 3, of pictures of a folder (default: as the first one has).

    Raises:
        FileExistsError: If there is something of that name.
        FileNotFoundError: If there are no such images.
    """
    shape = {"image_size": image_size, "channels": channels}
    if Path(images).is_dir():
        given = {key: value for key, value in shape.items() if value is not None}
        shape = {**shape_of(trained_on(Path(images))), **given}
    told = told_of(images, **shape)
    own = {key: value for key, value in told.get("init_args", {}).items() if key in KEPT}
    told["init_args"] = {key: os.path.abspath(value) if key in PATHS else value for key, value in own.items()}
    files = write_project(Path(name), told, build(ImageDataModule, told), ThreatModel.of(threat))
    print(f"{len(files)} files in {name}; next: cd {name} && lit-pursamere experiment experiment.yaml")


def trained_on(images: Path) -> Path:
    """Where the class folders with the training images are.

    Raises:
        FileNotFoundError: If there are none.
    """
    if not class_folders(images / "train"):
        raise FileNotFoundError(
            f"{images} has no images to train on: a project wants {images / 'train'}/<class>/*.png and "
            f"{images / 'test'}/<class>/*.png; for class folders alone there is `lit-pursamere evaluate`"
        )
    return images / "train"
