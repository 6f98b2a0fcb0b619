"""NumPy arrays in .npz files, without pickled objects, and how images lie in them."""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path

import numpy as np

from lit_pursamere.store.npy import READ_ERRORS, read_header

__all__ = ["list_arrays", "read_array", "to_nchw"]

NAME = re.compile(r"\w[\w .+=()-]{0,99}")  # of an array: what could be a file's name, and only in the folder meant
PACKED = 1100  # bytes that deflate can pack into one, at most 1032


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
