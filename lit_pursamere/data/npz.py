"""Images from one .npz file of NumPy arrays, without pickled objects.

    train_images, train_labels, test_images, test_labels    one pair of arrays per split, or
    images, labels, split                                   one row per image; split holds 'train' or 'test'
    classes                                                 optional: the names of the classes

Images are (N, H, W, C), (N, C, H, W) or (N, H, W) with square images and 1 or 3 channels, uint8 or floats in [0, 1].
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_pursamere.data.arrays import list_arrays, read_array, to_nchw
from lit_pursamere.data.base import ArrayDataset, ImageDataModule, Split
from lit_pursamere.data.source import Source

__all__ = ["NPZ"]

SPLITS: tuple[Split, ...] = ("train", "test")
MOST_CLASSES = 100_000  # where no names say how many there are


class NPZ(ImageDataModule):
    """Images of a .npz file; sizes and classes are read from it at construction, pixels when a split is needed.

    A split may be missing as long as nobody asks for it. Image indices are positions within their split.

    Args:
        path: File in one of the layouts above.
        kwargs: Other arguments as in `ImageDataModule`.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the file is damaged or holds pickled objects.
        ValueError: If arrays are missing, or have a wrong shape, type or range.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise FileNotFoundError(f"NPZ has no data: there is no file {self.path}; set `--data.path`")
        self.name = self.path.stem
        self.arrays = list_arrays(self.path)
        self.paired = [split for split in SPLITS if {f"{split}_images", f"{split}_labels"} <= self.arrays.keys()]
        if not self.paired and not {"images", "labels", "split"} <= self.arrays.keys():
            raise ValueError(
                f"{self.path} needs the arrays train_images, train_labels, test_images and test_labels, or images, "
                f"labels and split; it holds {sorted(self.arrays)}"
            )
        self.labels = self._read_labels()
        self.channels, self.image_size = self._image_shape()
        self.class_names = self._read_classes()
        self.num_classes = len(self.class_names)

    def load(self, split: Split) -> Source:
        if split not in self.labels:
            raise ValueError(f"{self.path} has no {split} images; it holds the arrays {sorted(self.arrays)}")
        images = (
            read_array(self.path, f"{split}_images")
            if self.paired
            else read_array(self.path, "images")[self._rows() == split]
        )
        images = np.ascontiguousarray(to_nchw(images))
        if images.dtype != np.uint8:
            images = images.astype(np.float32)
        try:
            return ArrayDataset(torch.from_numpy(images), torch.from_numpy(self.labels[split]))
        except ValueError as error:
            raise ValueError(f"{self.path}, {split} images: {error}") from None

    def _rows(self) -> np.ndarray:
        return read_array(self.path, "split").astype(str)

    def _read_labels(self) -> dict[Split, np.ndarray]:
        """Class numbers (N,) of every split that is there, int64."""
        if self.paired:
            return {split: self._checked_labels(f"{split}_labels", f"{split}_images") for split in self.paired}
        labels, rows = self._checked_labels("labels", "images"), self._rows()
        if rows.shape != labels.shape or not set(rows) <= set(SPLITS):
            raise ValueError(
                f"{self.path}: split must hold 'train' or 'test' for each of {len(labels)} images; "
                f"it is {rows.shape} with {sorted(set(rows.flat))[:5]}"
            )
        return {split: labels[rows == split] for split in SPLITS if split in rows}

    def _checked_labels(self, key: str, images: str) -> np.ndarray:
        labels, total = read_array(self.path, key), self.arrays[images][0][:1]
        if labels.shape not in (total, (*total, 1)) or not labels.size or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"{self.path}: {key} must be integers, one for each of the {total} {images}; "
                f"they are {labels.dtype} {labels.shape}"
            )
        for label in (labels.min(), labels.max()):
            if not 0 <= label <= np.iinfo(np.int64).max:
                raise ValueError(f"{self.path}: {key} must be class numbers from 0 up; one is {label}")
        return labels.reshape(-1).astype(np.int64)

    def _image_shape(self) -> tuple[int, int]:
        found = {}
        for key in [f"{split}_images" for split in self.paired] or ["images"]:
            shape, dtype = self.arrays[key]
            try:
                found[key] = to_nchw(np.broadcast_to(np.zeros((), dtype), shape)).shape[1:3]
            except ValueError as error:
                raise ValueError(f"{self.path}: {key}: {error}") from None
        if len(set(found.values())) > 1:
            raise ValueError(f"{self.path}: the splits differ in (channels, size): {found}")
        return next(iter(found.values()))

    def _read_classes(self) -> tuple[str, ...]:
        highest = max(int(labels.max()) for labels in self.labels.values())
        if "classes" not in self.arrays:
            if highest >= MOST_CLASSES:
                raise ValueError(
                    f"{self.path}: a label is {highest}, and without an array `classes` there are at most "
                    f"{MOST_CLASSES} classes; number them from 0, or add their names"
                )
            return tuple(str(k) for k in range(highest + 1))
        names = read_array(self.path, "classes").reshape(-1)
        if names.dtype.kind not in "USiu":
            raise ValueError(f"{self.path}: classes must be names, or whole numbers; they are {names.dtype}")
        classes = tuple(names.astype(str).tolist())
        if twice := [name for name, count in Counter(classes).items() if count > 1]:
            raise ValueError(f"{self.path}: several classes are called {twice[0]!r}; give each a name of its own")
        if highest >= len(classes):
            raise ValueError(f"{self.path}: a label is {highest}, but there are {len(classes)} classes")
        return classes
