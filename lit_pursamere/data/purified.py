"""The purified training set on disk: one image per index of the source split, written once, in any order.

    FOLDER/images.npy     (N, C, H, W) memory map, float16 or uint8
    FOLDER/done.npy       (N,) bool: which images are there; set only after their pixels were flushed
    FOLDER/manifest.json  what made them; written last, so a folder with a manifest is whole

Reference: PurSAMERE, section 4 "Data augmentation": purify every un-augmented training image once, SAM off.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.data.resident import to_float
from lit_pursamere.manifest import check_manifest, read_manifest, write_manifest

__all__ = ["PurifiedSet"]


class PurifiedSet:
    """Memory-mapped purified images; `set[index]` is a float32 image (C, H, W) in [0, 1].

    Several processes may write to one folder as long as they write different images. Use `create` or `open`.
    """

    def __init__(self, path: Path, manifest: dict, mode: str) -> None:
        self.path, self.manifest = path, manifest
        try:
            self.images = np.load(path / "images.npy", mmap_mode=mode)
            self.done = np.load(path / "done.npy", mmap_mode=mode)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the purified set in {path} is damaged ({error}); delete the folder and make it again"
            ) from error

    @classmethod
    def create(cls, path: str | Path, shape: Sequence[int], manifest: dict, dtype: str = "float16") -> PurifiedSet:
        """Create the set, or continue one that was made with the same manifest.

        Args:
            path: Folder of the set.
            shape: (N, C, H, W).
            manifest: JSON values that say what the images come from; compared key by key on continuation.
            dtype: `float16` or `uint8`.

        Raises:
            ValueError: If the folder holds a set with another manifest; the message names the differences.
        """
        if dtype not in ("float16", "uint8"):
            raise ValueError(f"dtype must be 'float16' or 'uint8'; got {dtype!r}")
        path = Path(path)
        manifest = {**manifest, "shape": list(shape), "dtype": dtype}
        if check_manifest(path, manifest):
            return cls.open(path, writable=True)
        path.mkdir(parents=True, exist_ok=True)
        _allocate(path / "images.npy", np.dtype(dtype), tuple(shape))
        _allocate(path / "done.npy", np.dtype(bool), (shape[0],))
        write_manifest(path, manifest)
        return cls.open(path, writable=True)

    @classmethod
    def open(cls, path: str | Path, writable: bool = False) -> PurifiedSet:
        """Open a set that exists.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If its files are damaged.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest is None:
            raise FileNotFoundError(
                f"no purified set in {path}; make one with `lit-pursamere predict` and LitPurification"
            )
        return cls(path, manifest, "r+" if writable else "r")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return to_float(torch.from_numpy(np.array(self.images[index])))

    def write(self, indices: Sequence[int], images: Tensor) -> None:
        """Store images (B, C, H, W) in [0, 1] at their indices, pixels first, then the mask."""
        array = images.detach().cpu()
        array = (array * 255).round().to(torch.uint8) if self.images.dtype == np.uint8 else array.half()
        rows = np.asarray(indices)
        self.images[rows] = array.numpy()
        self.images.flush()
        self.done[rows] = True
        self.done.flush()

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Those of the indices whose images are not there yet."""
        return [index for index in indices if not self.done[index]]

    def require_complete(self, indices: Sequence[int], shape: Sequence[int]) -> None:
        """Raise ValueError unless every index is there and images have the shape (C, H, W)."""
        if tuple(self.images.shape[1:]) != tuple(shape):
            raise ValueError(f"{self.path} holds images {self.images.shape[1:]}, but the data set has {tuple(shape)}")
        if max(indices) >= len(self):
            raise ValueError(f"{self.path} holds {len(self)} images, but the data set has index {max(indices)}")
        missing = self.missing(indices)
        if missing:
            raise ValueError(
                f"{self.path} lacks {len(missing)} of {len(indices)} images (first: {missing[0]}); run the same "
                "`lit-pursamere predict` command again, it continues where it stopped"
            )


def _allocate(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Create an array file of zeros and claim its disk space now: a full disk would later kill the process."""
    np.lib.format.open_memmap(path, "w+", dtype, shape).flush()
    size = path.stat().st_size
    try:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink()
        raise OSError(f"no room for {path} ({size} bytes): {error.strerror}; choose another `output` folder") from error
