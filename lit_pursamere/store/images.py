"""The adversarial images behind the records, exactly as they were judged, so that they can be judged again.

    FOLDER/images-RANK.float32    images (C, H, W), one after the other, nothing else; float64 for runs in float64

A row of the records says where its images are, `"stored": [rank, position]`: the last iterate at that position, the
one that decided the verdict `any` at the next. A row is written only after its images are on disk, so images
without a row can be there after a kill, but never the reverse; the next run cuts them off.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.store.durable import Row, append, cut_tail
from lit_pursamere.store.manifest import read_manifest

__all__ = ["ImageStore", "cut_unnamed", "read_images"]

PER_ROW = 2  # the last iterate, and the one that decided `any`


class ImageStore:
    """Images of one process, appended to its file.

    Args:
        folder: Folder of the records.
        rank: Number of this process.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder, self.rank = Path(folder), rank
        self.file: Path | None = None
        self.count = 0

    def append(self, last: Tensor, any_: Tensor) -> list[list[int]]:
        """Force pairs of images (B, C, H, W) to disk; what is neither float32 nor float64 becomes float32.

        Returns:
            For each pair the entry `stored` of its row.

        Raises:
            OSError: If they cannot be written, with what to do about it.
        """
        dtype = torch.float64 if last.dtype == torch.float64 else torch.float32
        pairs = torch.stack([last, any_], dim=1).to("cpu", dtype).numpy()
        if self.file is None:
            self.file = self.folder / f"images-{self.rank}.{pairs.dtype}"
            self.count = PER_ROW * cut_tail(self.file, pairs[0].nbytes) // pairs[0].nbytes
        append(self.file, pairs.astype(pairs.dtype.newbyteorder("<"), copy=False).tobytes())
        first, self.count = self.count, self.count + PER_ROW * len(pairs)
        return [[self.rank, first + PER_ROW * i] for i in range(len(pairs))]


def cut_unnamed(folder: Path, rows: Iterable[Row], files: Iterable[Path]) -> None:
    """Cut off images behind the last one that any of all rows names, of files that nobody else writes to."""
    shape = _shape(folder)
    if shape is None:
        return
    ends: dict[str, int] = {}
    for rank, position in (row["stored"] for row in rows if row.get("stored")):
        ends[str(rank)] = max(ends.get(str(rank), 0), position + PER_ROW)
    for file in files:
        size = ends.get(file.stem.partition("-")[2], 0) * np.dtype(file.suffix[1:]).itemsize * math.prod(shape)
        if not size:
            file.unlink()
        elif size < file.stat().st_size:
            os.truncate(file, size)


def read_images(folder: str | Path, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """The images of rows of the records: last iterates, and those that decided `any`, both (N, C, H, W) on the CPU.

    Raises:
        ValueError: If the run kept no images of a row, a row names no place, or no shape is known.
        FileNotFoundError: If their file is gone.
    """
    folder = Path(folder)
    shape = _shape(folder)
    missing = [row for row in rows if not row.get("stored")]
    if missing or shape is None:
        named = ", ".join(f"{row['system']}/{row['attack']}/{row['index']}" for row in missing[:3])
        raise ValueError(
            f"{folder} holds no images for {len(missing)} of {len(rows)} rows ({named}); run the test with "
            "`--model.save_images true` and another `--model.output`"
        )
    for place in (row["stored"] for row in rows):
        if not isinstance(place, list) or [type(part) for part in place] != [int, int] or min(place) < 0:
            raise ValueError(f"{folder} has a row with stored {place!r}, which is no [rank, position]; remove that row")
    files = {rank: _open(folder, rank, shape) for rank in {row["stored"][0] for row in rows}}
    places = [row["stored"] for row in rows]
    for rank, position in places:
        if position + PER_ROW > len(files[rank]):
            raise ValueError(
                f"{folder} holds {len(files[rank])} images of process {rank}, but a row names number {position + 1}; "
                "remove the records of that process and run the same command again"
            )
    last, any_ = (
        torch.stack([torch.from_numpy(np.array(files[rank][position + offset])) for rank, position in places])
        for offset in range(PER_ROW)
    )
    return last, any_


def _shape(folder: Path) -> Sequence[int] | None:
    return (read_manifest(folder) or {}).get("images", {}).get("shape")


def _open(folder: Path, rank: int, shape: Sequence[int]) -> np.ndarray:
    found = sorted(folder.glob(f"images-{rank}.float*"))
    if not found:
        raise FileNotFoundError(f"{folder} has rows whose images were in images-{rank}, which is gone")
    dtype = np.dtype(found[0].suffix[1:]).newbyteorder("<")
    whole = found[0].stat().st_size // (dtype.itemsize * math.prod(shape))
    return np.memmap(found[0], dtype, "r", shape=(whole, *shape))
