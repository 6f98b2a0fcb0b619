"""Images from one .npz file of NumPy arrays, without pickled objects.

    train_images, train_labels, test_images, test_labels    one pair of arrays per split, or
    images, labels, split                                   one row per image; split holds 'train' or 'test'
    classes                                                 optional: the names of the classes

Images are (N, H, W, C), (N, C, H, W) or (N, H, W) with square images and 1 or 3 channels, uint8 or floats in [0, 1].
"""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_pursamere.data.base import ArrayDataset, ImageDataModule, Split
from lit_pursamere.data.source import Source
from lit_pursamere.store.npy import READ_ERRORS, read_header

__all__ = ["NPZ", "list_arrays", "read_array", "to_nchw"]

SPLITS: tuple[Split, ...] = ("train", "test")
NAME = re.compile(r"\w[\w .+=()-]{0,99}")  # of an array: what could be a file's name, and only in the folder meant
PACKED = 1100  # bytes that deflate can pack into one, at most 1032
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
        classes = tuple(read_array(self.path, "classes").astype(str).reshape(-1).tolist())
        if highest >= len(classes):
            raise ValueError(f"{self.path}: a label is {highest}, but there are {len(classes)} classes")
        return classes


def list_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array of a .npz file by name, from the headers alone.

    Raises:
        OSError: If the file is damaged, or two arrays have one name.
        ValueError: If the name of an array could not be that of a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            found = {entry.filename.removesuffix(".npy"): _header(archive, entry) for entry in entries}
            if len(found) < len(entries):
                raise ValueError("two arrays have one name")
    except READ_ERRORS as error:
        raise OSError(f"{path} is not a whole .npz file: {error}") from error
    for name in found:
        if not NAME.fullmatch(name):
            raise ValueError(
                f"{path}: an array cannot be called {name[:100]!r}; rename it, with letters, digits, spaces and "
                "_ . + - = ( )"
            )
    return found


def read_array(path: Path, name: str) -> np.ndarray:
    """One array of a .npz file.

    Raises:
        OSError: If it is damaged, or holds pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except READ_ERRORS as error:
        raise OSError(f"{path}: cannot read the array {name!r}: {error}") from error


def _header(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one member.

    Raises:
        ValueError: If it is no .npy file, is of a version that only arrays of records need, or could not hold what its
            header tells.
    """
    with archive.open(entry) as file:
        shape, _, dtype = read_header(file)  # type: ignore[arg-type]
    told = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and not 0 <= told <= min(entry.file_size, PACKED * entry.compress_size):
        raise ValueError(f"{entry.filename} tells of {told} bytes, which are not there")
    return shape, dtype


def to_nchw(images: np.ndarray, square: bool = True) -> np.ndarray:
    """View images (N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W).

    Raises:
        ValueError: If they are neither uint8 nor floats, not square (unless they need not be), or have not 1 or 3
            channels.
    """
    found = f"they are {images.dtype} {images.shape}"
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"images must be uint8, or floats in [0, 1]; {found}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or (square and images.shape[2] != images.shape[3]):
        shapes = "(N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3"
        raise ValueError(f"images must be {'square, ' if square else ''}{shapes}; {found}")
    return images
