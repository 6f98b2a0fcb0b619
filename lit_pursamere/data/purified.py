"""The purified training set on disk: every image of a split once, in parts that never change.

    FOLDER/manifest.json    what the images are and what made them: data set, purifier, weights, sizes
    FOLDER/indices.npy      (N,) which images of the source split these are, ascending
    FOLDER/part-000123.npy  images 123 P .. 124 P - 1 of those, (P, C, H, W), float16 or uint8; see `parts`

A part is one batch: purified together, written under another name, forced to disk, renamed. So that it is there is the
only record that it is done. Nothing is written twice or by two processes, and no file is mapped for writing: network
file systems (NFS, Lustre) keep no order between such writes of several machines, but a rename is one step on all of
them. The batch, on which rounding depends, is a property of the set and not of the run, so any number of processes,
stopped and started in any way, makes the same bytes. A process that is killed loses the part that it was working on.

Reference: PurSAMERE, section 4 "Data augmentation": purify every un-augmented training image once, SAM off.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.data.parts import checksum, find_pixels, part_file, parts_in, read_rows, write_part
from lit_pursamere.data.resident import to_float
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.locks import require_held
from lit_pursamere.store.manifest import check_manifest, digest_of, read_manifest, require_stated, write_manifest
from lit_pursamere.store.npy import READ_ERRORS, map_array

__all__ = ["PurifiedSet"]

FORMAT = "purified set, parts"
DTYPES = ("float16", "uint8", "float32")


class PurifiedSet:
    """Purified images in parts on disk; `set[index]` is a float32 image (C, H, W) in [0, 1].

    Any number of processes on any number of machines may write to one folder, each other parts. Use `create` or `open`.
    Opening reads no pixels; `verify` reads them all.
    """

    def __init__(self, path: Path, manifest: dict, indices: np.ndarray) -> None:
        self.path, self.manifest, self.indices = path, manifest, indices
        self.shape, self.dtype = tuple(manifest["images"]["shape"]), np.dtype(manifest["dtype"])
        self.size = manifest["part"]
        self.parts = -(-len(indices) // self.size)
        self.digest = digest_of(manifest)
        self.pixels: dict[int, int] = {}  # where they begin in the parts that were looked at

    @classmethod
    def create(
        cls,
        path: str | Path,
        indices: Sequence[int],
        shape: Sequence[int],
        manifest: dict,
        dtype: str = "float16",
        part: int = 128,
    ) -> PurifiedSet:
        """Create the set, or continue one that was made with the same manifest.

        Args:
            path: Folder of the set.
            indices: Positions of the N images in their source split, ascending.
            shape: (C, H, W).
            manifest: JSON values that say what the images come from; compared key by key on continuation.
            dtype: `float16`, `uint8` (half the size, rounded by up to 1/510) or `float32`.
            part: Images per part.

        Raises:
            ValueError: If the folder holds a set with another manifest; the message names the differences.
            OSError: If there is no room for the images.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
        chosen = np.asarray(indices, dtype=np.int64)
        if part < 1 or not len(chosen) or (np.diff(chosen) <= 0).any():
            raise ValueError(f"a purified set needs ascending indices and part >= 1; got {len(chosen)} and {part}")
        path = Path(path)
        images = {"count": len(chosen), "indices": digest_of(chosen.tolist())[:16], "shape": list(shape)}
        manifest = {**manifest, "format": FORMAT, "images": images, "dtype": dtype, "part": part}
        require_held(path / "manifest.json")  # or a folder around it that was removed would be made again
        path.mkdir(parents=True, exist_ok=True)
        if read_manifest(path) is not None:
            made = cls.open(path)
            check_manifest(path, manifest)
        else:
            _write_indices(path, chosen)
            write_manifest(path, manifest)
            made = cls(path, manifest, chosen)
        made._require_room()
        return made

    @classmethod
    def open(cls, path: str | Path) -> PurifiedSet:
        """Open a set that exists, complete or not.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it was made by an older version, or its manifest or its indices are damaged.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest is None:
            raise FileNotFoundError(
                f"no purified set in {path}; make one with `lit-pursamere predict` and LitPurification"
            )
        if manifest.get("format") != FORMAT:
            raise ValueError(f"{path} holds no purified set, but something else; choose another folder")
        require_stated(path, manifest, "images.count", "images.indices", "images.shape", "dtype", "part")
        if manifest["dtype"] not in DTYPES:
            raise ValueError(
                f"{path / 'manifest.json'} is damaged: dtype must be one of {', '.join(DTYPES)}, and is "
                f"{manifest['dtype']!r}; remove that folder and make the set again"
            )
        try:
            indices = np.array(map_array(path / "indices.npy"))
        except READ_ERRORS:
            indices = np.zeros(0, np.int64)
        if indices.dtype != np.int64 or digest_of(indices.tolist())[:16] != manifest["images"]["indices"]:
            raise ValueError(f"{path / 'indices.npy'} is missing or damaged; remove that folder and make the set again")
        return cls(path, manifest, indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tensor:
        return to_float(torch.from_numpy(self.take([index])[0]))

    def take(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Images (B, C, H, W) of these indices, in the type in which they are stored.

        Raises:
            KeyError: If an index is not among those of the set.
        """
        wanted = np.asarray(indices, dtype=np.int64)
        positions = np.searchsorted(self.indices, wanted)
        if not (self.indices[np.minimum(positions, len(self) - 1)] == wanted).all():
            raise KeyError(f"{self.path} has no image {sorted(set(wanted.tolist()) - set(self.indices.tolist()))[0]}")
        numbers, images = positions // self.size, np.empty((len(wanted), *self.shape), self.dtype)
        for number in np.unique(numbers).tolist():
            if number not in self.pixels:
                self.pixels[number] = find_pixels(self.path, number, self._part_shape(number), self.dtype)
            chosen = np.flatnonzero(numbers == number)
            rows = (positions[chosen] % self.size).tolist()
            read_rows(self.path, number, self.pixels[number], rows, (images[place] for place in chosen))
        return images

    def missing(self) -> list[int]:
        """Numbers of the parts that are not there."""
        return sorted(set(range(self.parts)) - parts_in(self.path))

    def count(self) -> int:
        """How many images are there, written by whomever."""
        there = [number for number in parts_in(self.path) if number < self.parts]
        lacking = self.parts * self.size - len(self) if self.parts - 1 in there else 0  # of the last part
        return len(there) * self.size - lacking

    def has(self, number: int) -> bool:
        """Whether a part is there, and so done."""
        return part_file(self.path, number).exists()

    def number(self, index: int) -> int:
        """Which part holds the image with this index."""
        return int(np.searchsorted(self.indices, index)) // self.size

    def part(self, number: int) -> np.ndarray:
        """Indices of the images of a part, (B,)."""
        return self.indices[number * self.size : (number + 1) * self.size]

    def write(self, number: int, images: Tensor) -> None:
        """Store a part, whole and on disk when this returns.

        Args:
            number: Which part.
            images: Its purified images (B, C, H, W) in [0, 1], in the order of `part(number)`.

        Raises:
            ValueError: If they have another shape, or are not numbers in [0, 1].
            OSError: If they cannot be written.
        """
        array, shape = images.detach().cpu(), self._part_shape(number)
        if tuple(array.shape) != shape:
            raise ValueError(f"part {number} holds images {shape}; got {tuple(array.shape)}")
        if not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
            raise ValueError(
                f"the purifier made pixels from {array.min():g} to {array.max():g} in part {number} (image "
                f"{self.part(number)[0]} and following), which is not within [0, 1]; nothing of it was kept"
            )
        array = (array * 255).round() if self.dtype == np.uint8 else array
        write_part(self.path, number, self.digest, array.numpy().astype(self.dtype))

    def checksum(self, number: int) -> str:
        """Checksum of a part after it was read whole and found undamaged; errors as `parts.checksum` raises them."""
        return checksum(self.path, number, self.digest, self._part_shape(number), self.dtype)

    def _part_shape(self, number: int) -> tuple[int, ...]:
        return (len(self.part(number)), *self.shape)

    def _require_room(self) -> None:
        """A full disk is better noticed before the work begins."""
        needed = (len(self) - self.count()) * math.prod(self.shape) * self.dtype.itemsize
        free = shutil.disk_usage(self.path).free
        if needed > free:
            raise OSError(f"no room in {self.path} for {needed} more bytes ({free} free); choose another `output`")


def _write_indices(path: Path, indices: np.ndarray) -> None:
    file = io.BytesIO()
    np.save(file, indices)
    write_whole(path / "indices.npy", file.getvalue())
