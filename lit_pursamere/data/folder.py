"""Images in class folders, read when they are needed: ROOT/train/<class>/*.png and ROOT/test/<class>/*.png.

Where ROOT has neither `train` nor `test`, its folders are the classes, and all of it is the split `test`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lit_pursamere.data.base import ImageDataModule, Split
from lit_pursamere.data.image_files import (
    DECODE_ERRORS,
    FORMATS,
    Refused,
    as_shown,
    images_in,
    in_srgb,
    is_opaque,
    is_visible,
)
from lit_pursamere.data.source import Source

__all__ = ["ImageFolder"]

# Pillow would fill whatever memory there is.
LARGEST = 8192  # pixels of a side
RESIZED = 2**28  # pixels of a resized image before it is cropped, which a long one has many of


class FileDataset(Dataset):
    """Image files as (x (C, S, S) float32 in [0, 1], y).

    Args:
        paths: Image files.
        labels: Class number of each.
        channels: 1 converts to grey, 3 to RGB.
        size: S. Other sizes are resized (bicubic, shorter side) and cropped at the centre.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], channels: int, size: int) -> None:
        self.paths, self.labels, self.mode, self.size = list(paths), list(labels), {1: "L", 3: "RGB"}[channels], size
        resize = v2.Resize(size, v2.InterpolationMode.BICUBIC)
        self.transform = v2.Compose([resize, v2.CenterCrop(size), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        try:
            with Image.open(path, formats=list(FORMATS.values())) as file:
                image = as_shown(file)
                if not is_opaque(image):
                    raise Refused("is transparent in places; give it a background")
                if self.size**2 * max(image.size) > RESIZED * min(image.size):
                    raise Refused(f"is too long to be resized to {self.size}: {image.size}; crop it")
                pixels = self.transform(in_srgb(image, self.mode))
        except Refused as error:
            raise OSError(f"the image {path} {error}") from None
        except DECODE_ERRORS as error:
            raise OSError(f"cannot read the image {path}: {error}") from error
        return pixels.to(torch.float32) / 255, self.labels[index]


class ImageFolder(ImageDataModule):
    """Your own images, one folder per class; class numbers follow the folder names in alphabetical order.

    Images are taken as they are shown: turned as their EXIF says, in sRGB by way of their colour profile, if they have
    one. Those of more than 8 bits a channel, of several frames, or transparent in places are refused. Folders without
    images, hidden ones and those that systems make (`@eaDir`, `__MACOSX`) are no classes.

    A split may be missing as long as nobody asks for it.

    Args:
        root: Folder with the folders `train` and `test`, each with one folder per class; or with the class folders.
        image_size: Side S in pixels. Other images are resized (bicubic, shorter side to S) and cropped at the centre.
        channels: 3 for RGB, 1 for grey; images are converted.
        order: Images by `class`, then file name; or by file `name` over all classes, which restores the official
            order of an exported data set whose files carry their number (zero-padded).
        kwargs: Other arguments as in `ImageDataModule`.

    Raises:
        FileNotFoundError: If there are no such folders, or (on `setup`) no images in them.
        ValueError: If the classes of the splits differ, or an argument is out of range.
        OSError: When an image is read that is damaged or refused; the message names it.
    """

    def __init__(
        self,
        root: str,
        image_size: int = 32,
        channels: Literal[1, 3] = 3,
        order: Literal["class", "name"] = "class",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 1 <= image_size <= LARGEST or channels not in (1, 3) or order not in ("class", "name"):
            raise ValueError(
                f"ImageFolder needs image_size from 1 to {LARGEST}, channels 1 or 3, and order 'class' or 'name'; "
                f"got {image_size}, {channels} and {order!r}"
            )
        self.root, self.image_size, self.channels, self.order = Path(root).expanduser(), image_size, channels, order
        self.name = self.root.resolve().name
        self.class_names = self._find_classes()
        self.num_classes = len(self.class_names)

    def load(self, split: Split) -> Source:
        found = [
            (path, label)
            for label, name in enumerate(self.class_names)
            for path in sorted(images_in(self._place(split) / name))
        ]
        if not found:
            raise FileNotFoundError(f"no images in {self._place(split)}/<class> (known: {', '.join(FORMATS)})")
        if self.order == "name":
            found.sort(key=lambda item: item[0].name)
        paths, labels = zip(*found, strict=True)
        return FileDataset(paths, labels, self.channels, self.image_size)

    def _place(self, split: Split) -> Path:
        """Where the class folders of a split are."""
        apart = split == "train" or any((self.root / name).is_dir() for name in ("train", "test"))
        return self.root / split if apart else self.root

    def _find_classes(self) -> tuple[str, ...]:
        splits: tuple[Split, ...] = ("train", "test")
        found = {split: class_folders(self._place(split)) for split in splits}
        filled = {name for folders in found.values() for name, images in folders.items() if images}
        classes = {split: filled & set(folders) for split, folders in found.items()}
        if not filled:
            raise FileNotFoundError(
                f"no images for ImageFolder: expected {self.root / 'train'}/<class>/*.png and the same under "
                f"{self.root / 'test'}; set `--data.root` to the folder above"
            )
        only_train, only_test = (sorted(classes[a] - classes[b]) for a, b in (splits, splits[::-1]))
        if all(classes.values()) and (only_train or only_test):
            raise ValueError(f"classes in {self.root} differ: only in train {only_train}, only in test {only_test}")
        return tuple(sorted(filled))


def class_folders(folder: Path) -> dict[str, bool]:
    """The folders in a folder that could be classes, and whether there are images in them; none if it is not there."""
    if not folder.is_dir():
        return {}
    folders = [child for child in folder.iterdir() if is_visible(child.name) and child.is_dir()]
    return {child.name: any(True for _ in images_in(child)) for child in folders}
