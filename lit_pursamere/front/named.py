"""Networks and images as a command line names them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from lit_pursamere.configuration.building import build
from lit_pursamere.configuration.composition import part_of
from lit_pursamere.data import ImageDataModule
from lit_pursamere.data.folder import class_folders
from lit_pursamere.data.image_files import images_in
from lit_pursamere.front.checkpoint import load_module
from lit_pursamere.pretrained import load_classifier
from lit_pursamere.shipped import names_of
from lit_pursamere.zoo import is_zoo, zoo_classifier

__all__ = ["data_of", "network_of", "shape_of", "told_of"]

GREY = ("1", "L", "I", "I;16")  # Pillow's modes


def network_of(name: str, weights: str | None, arguments: str = "{}", download: bool = False) -> nn.Module:
    """A network by its class, filled with weights, or by the name of its weights.

    Args:
        name: "mynet:SmallResNet", which is looked for in the current folder too; "cifar10/standard"; or one of another
            library, "torchvision:resnet50", see `zoo`.
        weights: Its weight file, or Lightning's .ckpt, which knows its arguments; None only with the name of weights.
        arguments: What the class is built with, as JSON; they win over those of a checkpoint.
        download: Whether to download weights that have a name and are not on this machine.

    Raises:
        ValueError: If there is none of that name, its arguments are wrong, or the weights do not fit.
        FileNotFoundError: If there is no such weight file.
    """
    if is_zoo(name):
        return zoo_classifier(name, weights, download)
    if weights is None:
        if ":" in name:
            raise ValueError(f"{name} needs its weights: lit-pursamere evaluate {name} WEIGHTS IMAGES")
        return load_classifier(name, download)
    try:
        given = json.loads(arguments)
    except ValueError as error:
        raise ValueError(f"--arguments '{arguments}' is no JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"--arguments must be a JSON object, such as '{{\"num_classes\": 7}}'; got {arguments}")
    return load_module(name, weights, given)


def told_of(name: str, **shape: int | None) -> dict[str, Any]:
    """What a configuration says of images that are told by a path or by the name of a data set.

    Args:
        name: A folder of class folders, an .npz file, or `cifar10`.
        shape: `image_size` and `channels` of the pictures of a folder.

    Raises:
        FileNotFoundError: If there is nothing of that name.
    """
    if Path(name).is_dir():
        return {"class_path": "lit_pursamere.data.ImageFolder", "init_args": {"root": name, **shape}}
    if Path(name).suffix == ".npz":
        return {"class_path": "lit_pursamere.data.NPZ", "init_args": {"path": name}}
    if name not in (known := names_of(["data"])):
        raise FileNotFoundError(
            f"there is no folder or file {name}, and no data set of that name; known: {', '.join(known)}"
        )
    return part_of(name, ["data"])


def data_of(name: str, network: nn.Module, image_size: int | None = None) -> ImageDataModule:
    """Images by the path of a folder or .npz file, or by the name of a data set.

    Args:
        name: A folder of class folders, with or without `test` above them; an .npz file; `cifar10`.
        network: Says how many channels the pictures of a folder must have.
        image_size: Side of the pictures of a folder in pixels. None: that of the first one.

    Raises:
        FileNotFoundError: If there is nothing of that name.
    """
    path, shape = Path(name), {}
    if path.is_dir():
        root = path if (path / "test").is_dir() else path.parent
        split = path / "test" if root == path else path
        if not class_folders(split):
            raise FileNotFoundError(
                f"{path} has no class folders; put the pictures of each class in a folder of its own"
            )
        size = image_size or shape_of(split)["image_size"]
        shape = {"image_size": size, "channels": channels_of(network)}
    return build(ImageDataModule, told_of(name, **shape))


def shape_of(folder: Path) -> dict[str, int]:
    """`image_size`, the shorter side, and `channels` of the first picture in class folders.

    Raises:
        FileNotFoundError: If there is none.
    """
    from PIL import Image

    first = next((image for name in sorted(class_folders(folder)) for image in sorted(images_in(folder / name))), None)
    if first is None:
        raise FileNotFoundError(f"no images in {folder}/<class>")
    with Image.open(first, formats=["PNG", "JPEG"]) as picture:
        return {"image_size": min(picture.size), "channels": 1 if picture.mode in GREY else 3}


def channels_of(network: nn.Module) -> Any:
    """Channels that the first convolution takes, 1 or 3; 3 where there is none."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    return 1 if first is not None and first.in_channels == 1 else 3
