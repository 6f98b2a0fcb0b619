"""Tiny-ImageNet as it is unpacked: training images by class, and validation images with a table of their classes.

    ROOT/tiny-imagenet-200/train/<wnid>/images/*.JPEG        500 images of each of 200 classes
                           val/images/*.JPEG                 10,000 images, which are the test images here
                           val/val_annotations.txt           file name, wnid, and a box, between tabs
                           words.txt                         wnid and its words, between tabs

Reference: Le & Yang (2015), "Tiny ImageNet Visual Recognition Challenge". The labels of its own test images are not
public, so that evaluations are on the validation images.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

from lit_pursamere.data.base import ImageDataModule, Split
from lit_pursamere.data.folder import FileDataset, class_folders
from lit_pursamere.data.image_files import images_in
from lit_pursamere.data.source import Source

__all__ = ["TinyImageNet"]

TABLE = "val/val_annotations.txt"


class TinyImageNet(ImageDataModule):
    """Tiny-ImageNet: 100,000 training and 10,000 test images, (3, 64, 64), 200 classes, read when they are needed.

    Class numbers follow the wnids in alphabetical order; the few grey images become RGB.

    Args:
        root: Folder that holds the folder `tiny-imagenet-200`.
        crop: Padding of the random training crop in pixels (0: no crop).
        flip: Whether to flip training images left and right at random.
        kwargs: Other arguments as in `ImageDataModule`.

    Raises:
        FileNotFoundError: On `setup`, if folders, the table or images that it names are missing.
        ValueError: On `setup`, if there are not 200 classes, or a line of the table is about none of them.
        OSError: When an image is read that is damaged; the message names it.
    """

    name = "tiny_imagenet"
    num_classes, channels, image_size = 200, 3, 64
    counts = MappingProxyType({"train": 100_000, "test": 10_000})

    def __init__(self, root: str = "data", crop: int = 8, flip: bool = True, **kwargs: Any) -> None:
        super().__init__(crop=crop, flip=flip, **kwargs)
        self.folder = Path(root).expanduser() / "tiny-imagenet-200"
        self.class_names = self._names() or tuple(map(str, range(self.num_classes)))

    def load(self, split: Split) -> Source:
        wnids = self._wnids()
        found = self._training(wnids) if split == "train" else self._validation(wnids)
        return FileDataset([path for path, _ in found], [label for _, label in found], self.channels, self.image_size)

    def _wnids(self) -> list[str]:
        wnids = sorted(class_folders(self.folder / "train"))
        if not wnids:
            raise FileNotFoundError(
                f"tiny_imagenet is not in {self.folder.absolute()}: no train/<wnid>/images; unpack "
                "tiny-imagenet-200.zip there, or change `--data.root`"
            )
        if len(wnids) != self.num_classes:
            raise ValueError(f"{self.folder / 'train'} must have {self.num_classes} classes; it has {len(wnids)}")
        return wnids

    def _training(self, wnids: list[str]) -> list[tuple[Path, int]]:
        places = [self.folder / "train" / wnid / "images" for wnid in wnids]
        found = [(path, label) for label, place in enumerate(places) for path in sorted(images_in(place))]
        if not found:
            raise FileNotFoundError(f"no images in {self.folder / 'train'}/<wnid>/images")
        return found

    def _validation(self, wnids: list[str]) -> list[tuple[Path, int]]:
        table, numbers = self.folder / TABLE, {wnid: label for label, wnid in enumerate(wnids)}
        if not table.is_file():
            raise FileNotFoundError(f"there is no {table}, which says the classes of the validation images")
        found = []
        for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
            name, _, rest = line.partition("\t")
            wnid = rest.partition("\t")[0]
            if wnid not in numbers or Path(name).name != name:
                raise ValueError(
                    f"line {number} of {table} must be a file name, a tab and a wnid of train; got {line!r}"
                )
            found.append((self.folder / "val/images" / name, numbers[wnid]))
        present = {path.name for path in images_in(self.folder / "val/images")}
        if missing := [path.name for path, _ in found if path.name not in present]:
            raise FileNotFoundError(
                f"{self.folder / 'val/images'} lacks {len(missing)} images of {table}: {missing[0]}"
            )
        if not found:
            raise ValueError(f"{table} is empty")
        return found

    def _names(self) -> tuple[str, ...]:
        """The first of the words of every class, or its wnid where there are none; nothing where there are no files."""
        wnids = sorted(class_folders(self.folder / "train"))
        words = self.folder / "words.txt"
        lines = words.read_text(encoding="utf-8").splitlines() if words.is_file() else []
        told = {wnid: rest.split(",")[0].strip() for wnid, _, rest in (line.partition("\t") for line in lines)}
        return tuple(told.get(wnid) or wnid for wnid in wnids)
