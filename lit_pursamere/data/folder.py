"""Images in class folders, read when they are needed: ROOT/train/<class>/*.png and ROOT/test/<class>/*.png."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from lit_pursamere.data.base import ImageDataModule, Split
from lit_pursamere.data.source import Source

__all__ = ["FORMATS", "ImageFolder"]

# Formats that are read, by the endings under which they are looked for. Pillow knows many more, and goes by a file's
# content, whatever its ending: it would start Ghostscript for what says that it is PostScript.
FORMATS = {
    ".bmp": "BMP", ".jpeg": "JPEG", ".jpg": "JPEG", ".pgm": "PPM", ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
# What Pillow raises on damaged files, depending on the format.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)


class FileDataset(Dataset):
    """Image files as (x (C, S, S) float32 in [0, 1], y).

    Args:
        paths: Image files.
        labels: Class number of each.
        channels: 1 converts to grey, 3 to RGB.
        size: S. Other sizes are resized (bicubic, shorter side) and cropped at the centre.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[int], channels: int, size: int) -> None:
        self.paths, self.labels, self.mode = list(paths), list(labels), {1: "L", 3: "RGB"}[channels]
        resize = v2.Resize(size, v2.InterpolationMode.BICUBIC)
        self.transform = v2.Compose([resize, v2.CenterCrop(size), v2.PILToTensor()])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path = self.paths[index]
        try:
            with Image.open(path, formats=list(FORMATS.values())) as file:
                if file.mode[0] in "IF":  # Pillow would clip these to 255 without a word
                    raise ValueError(f"it has more than 8 bits a channel (mode {file.mode}); convert it to 8")
                pixels = self.transform(file.convert(self.mode))
        except DECODE_ERRORS as error:
            raise OSError(f"cannot read the image {path}: {error}") from error
        return pixels.to(torch.float32) / 255, self.labels[index]


class ImageFolder(ImageDataModule):
    """Your own images, one folder per class; class numbers follow the folder names in alphabetical order.

    A split may be missing as long as nobody asks for it.

    Args:
        root: Folder with the folders `train` and `test`, each with one folder per class.
        image_size: Side S in pixels. Other images are resized (bicubic, shorter side to S) and cropped at the centre.
        channels: 3 for RGB, 1 for grey; images are converted.
        order: Images by `class`, then file name; or by file `name` over all classes, which restores the official
            order of an exported data set whose files carry their number (zero-padded).
        kwargs: Other arguments as in `ImageDataModule`.

    Raises:
        FileNotFoundError: If there are no such folders, or (on `setup`) no images in them.
        ValueError: If the classes of the splits differ, or an argument is out of range.
        OSError: When an image that cannot be decoded is read; the message names it.
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
        if image_size < 1 or channels not in (1, 3) or order not in ("class", "name"):
            raise ValueError(
                "ImageFolder needs image_size >= 1, channels 1 or 3, and order 'class' or 'name'; "
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
            for path in sorted((self.root / split / name).glob("*"))
            if path.suffix.lower() in FORMATS and not path.name.startswith(".")
        ]
        if not found:
            raise FileNotFoundError(f"no images in {self.root / split}/<class> (known: {', '.join(FORMATS)})")
        if self.order == "name":
            found.sort(key=lambda item: item[0].name)
        paths, labels = zip(*found, strict=True)
        return FileDataset(paths, labels, self.channels, self.image_size)

    def _find_classes(self) -> tuple[str, ...]:
        classes = {split: class_folders(self.root / split) for split in ("train", "test")}
        if not any(classes.values()):
            raise FileNotFoundError(
                f"no images for ImageFolder: expected {self.root / 'train'}/<class>/*.png and the same under "
                f"{self.root / 'test'}; set `--data.root` to the folder above"
            )
        only_train, only_test = (sorted(classes[a] - classes[b]) for a, b in (("train", "test"), ("test", "train")))
        if all(classes.values()) and (only_train or only_test):
            raise ValueError(f"classes in {self.root} differ: only in train {only_train}, only in test {only_test}")
        return tuple(sorted(classes["train"] | classes["test"]))


def class_folders(folder: Path) -> set[str]:
    """Names of the folders in a folder, hidden ones left out; empty if it does not exist."""
    if not folder.is_dir():
        return set()
    return {child.name for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")}
