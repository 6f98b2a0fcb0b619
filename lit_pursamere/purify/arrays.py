"""Purify the images in a .npy or .npz file: part by part beside the result, which is put together in the end.

OUTPUT/.NAME-KEY-SIZE/  a `PurifiedSet`, in batches of SIZE, for every array of images, until the result is there
OUTPUT/NAME             the same arrays in the same layouts and types; those that are no images as they were, and so
                        are tables (N, H, W), unless their name says that they are images or there is nothing else
"""

from __future__ import annotations

import io
import re
import shutil
import sys
import zipfile
from glob import escape
from pathlib import Path

import numpy as np
import torch

from lit_pursamere.data import PurifiedSet
from lit_pursamere.data.arrays import list_arrays, read_array, to_nchw
from lit_pursamere.data.purified_checks import verify
from lit_pursamere.data.resident import to_float
from lit_pursamere.names import shown
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purify.batch import accepts, purify_batch
from lit_pursamere.store.npy import READ_ERRORS, map_array
from lit_pursamere.store.outputs import Outputs
from lit_pursamere.weights import sha256

__all__ = ["purify_arrays"]

IMAGES = re.compile(r"image|img|picture|photo|pixel|digit|(?<![a-z])x(?![a-z])")  # in names of grey images
ONLY = "images"  # name of the array in a .npy file


def purify_arrays(
    source: Path, folder: Path, purifier: Purifier, manifest: dict, batch_size: int, seed: int, hidden: bool
) -> int:
    """Purify a file of arrays, see `purify_images`; returns the number of images in it."""
    arrays = read_arrays(source)
    images = {key: to_nchw(arrays[key], square=False) for key in images_among(arrays)}
    total = sum(map(len, images.values()))
    if not total:
        shapes = ", ".join(f"{key} {array.dtype} {array.shape}" for key, array in arrays.items())
        raise ValueError(f"{source} has no images (N, H, W), (N, H, W, C) or (N, C, H, W); it holds {shapes}")
    for key, array in images.items():
        check(source, key, array, purifier)
    if odd := [key for key in arrays.keys() - images.keys() if says_images(key) and arrays[key].ndim > 2]:
        raise ValueError(
            f"{source}: by its name {odd[0]} holds images, but {arrays[odd[0]].dtype} {arrays[odd[0]].shape} is not "
            "(N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3, uint8 or floats; rename what holds none"
        )
    if not hidden and (others := sorted(arrays.keys() - images.keys())):
        print(f"{source}: copied as they are, for they are no images: {', '.join(map(shown, others))}", file=sys.stderr)
    with Outputs(folder, manifest) as outputs:
        digest = sha256(source)
        if not outputs.done(source.name, digest):
            stores = [folder / f".{source.name}-{key}-{batch_size}" for key in images]
            with Progress("purify", "image", total, hidden) as progress:
                for store, (key, array) in zip(stores, images.items(), strict=True):
                    told = {**manifest, "sha256": digest, "array": key}
                    made = fill(store, array, told, purifier, batch_size, seed, progress)
                    arrays[key] = like(made, arrays[key])
            outputs.write(source.name, as_file(arrays, source.suffix), digest, images=total)
        for begun in folder.glob(f".{escape(source.name)}-*"):  # with other sizes of batches, too, or left by a kill
            shutil.rmtree(begun)
    return total


def fill(
    store: Path, images: np.ndarray, told: dict, purifier: Purifier, batch_size: int, seed: int, progress: Progress
) -> np.ndarray:
    """Purify images (N, C, H, W) into a set, those that are missing; returns all of them, verified."""
    dtype = "uint8" if images.dtype == np.uint8 else "float32"
    made = PurifiedSet.create(store, range(len(images)), images.shape[1:], told, dtype, batch_size)
    missing = made.missing()
    progress.advance(made.count(), skipped=True)
    for number in missing:
        part = images[made.part(number)]
        native = part.astype(np.uint8 if part.dtype == np.uint8 else np.float32, "C")  # torch knows no other byte order
        x = to_float(torch.from_numpy(native))
        made.write(number, purify_batch(purifier, x, seed, number))
        progress.advance(len(x))
    verify(made)
    return made.take(range(len(images)))


def read_arrays(source: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, by name.

    Raises:
        ValueError: If the file has another ending, or the name of an array could not be that of a file.
        OSError: If it is damaged or holds pickled objects.
    """
    if source.suffix == ".npz":
        return {name: read_array(source, name) for name in list_arrays(source)}
    if source.suffix != ".npy":
        raise ValueError(f"{source} is neither a folder nor a .npy or .npz file")
    try:
        return {ONLY: np.array(map_array(source))}
    except READ_ERRORS as error:
        raise OSError(f"{source} cannot be read: {error}") from error


def images_among(arrays: dict[str, np.ndarray]) -> list[str]:
    """Names of the arrays that are images by type and shape; (N, H, W) is a table unless its name says otherwise."""
    return [
        name
        for name, array in arrays.items()
        if is_images(array) and (array.ndim == 4 or len(arrays) == 1 or says_images(name))
    ]


def says_images(name: str) -> bool:
    """Whether the name of an array says that it holds images."""
    return IMAGES.search(name.lower()) is not None


def is_images(array: np.ndarray) -> bool:
    """Whether an array has the type and shape of images; (H, W, 3), a single picture, has not."""
    if array.ndim == 3 and array.shape[2] in (1, 3):
        return False
    try:
        to_nchw(array, square=False)
    except ValueError:
        return False
    return True


def check(source: Path, key: str, images: np.ndarray, purifier: Purifier) -> None:
    """Raise ValueError if images (N, C, H, W) are not in [0, 1], or not what the purifier takes."""
    if images.dtype != np.uint8 and len(images) and not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"{source}: floats must lie in [0, 1], but {key} ranges from {images.min():g} to {images.max():g}; divide "
            "by 255, or store uint8"
        )
    if not accepts(purifier, tuple(images.shape[1:])):
        raise ValueError(
            f"{source}: {key} holds images (C, H, W) = {tuple(images.shape[1:])}, which the purifier's network does "
            "not take"
        )


def like(images: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Images (N, C, H, W) in the layout and type of the array that they come from."""
    if original.ndim == 3:
        images = images[:, 0]
    elif original.shape[3] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images, dtype=original.dtype)


def as_file(arrays: dict[str, np.ndarray], suffix: str) -> bytes:
    """The content of a .npy or .npz file, as NumPy writes it, whatever the arrays are called."""
    content = io.BytesIO()
    if suffix == ".npy":
        np.save(content, arrays[ONLY])
        return content.getvalue()
    with zipfile.ZipFile(content, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return content.getvalue()
