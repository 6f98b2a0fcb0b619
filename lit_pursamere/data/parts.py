"""A part of a purified set: a few images in a file that is written once, whole, with its own checksum.

    part-000123.npy = an array in NumPy's format, and behind it a line of text:
                      "000123 <manifest> <sha256>"   which part, of the set with which manifest, checksum of the array

Part and checksum appear in one step (a rename), so there is no moment at which one is there without the other, and no
third file that could be lost. `np.load` reads the array as usual, and ignores the line.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.npy import read_header

__all__ = ["checksum", "find_pixels", "part_file", "parts_in", "read_rows", "write_part"]

PREFIX, ENDING = "part-", ".npy"
DIGESTS = 1 + 64 + 1 + 64 + 1  # characters of the last line behind the number
AGAIN = "remove that file and repeat the command that made the set, which makes it anew"


def part_file(folder: Path, number: int) -> Path:
    return folder / f"{PREFIX}{number:06d}{ENDING}"


def parts_in(folder: Path) -> set[int]:
    """Numbers of the parts that are there, in one look at the folder."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(PREFIX) and entry.name.endswith(ENDING)]
    numbers = (name.removeprefix(PREFIX).removesuffix(ENDING) for name in names)
    return {int(number) for number in numbers if number.isdecimal()}


def write_part(folder: Path, number: int, manifest: str, array: np.ndarray) -> None:
    """Write a part and force it to disk; nobody ever sees half of it.

    Args:
        folder: Folder of the set.
        number: Which part it is.
        manifest: Digest of the set's manifest.
        array: Its images (B, C, H, W).

    Raises:
        OSError: If it cannot be written.
    """
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    content = file.getvalue()
    write_whole(part_file(folder, number), content, _line(number, manifest, hashlib.sha256(content).hexdigest()))


def find_pixels(folder: Path, number: int, shape: Sequence[int], dtype: np.dtype) -> int:
    """Where the images of a part begin in its file, in bytes.

    Raises:
        FileNotFoundError: If the part is not there.
        ValueError: If its file cannot be a part of this shape and type.
    """
    with open(part_file(folder, number), "rb") as opened:
        return _offset(opened, number, shape, dtype)


def read_rows(folder: Path, number: int, pixels: int, rows: Iterable[int], into: Iterable[np.ndarray]) -> None:
    """Read some images of a part, and nothing else of it.

    Args:
        folder: Folder of the set.
        number: Which part it is.
        pixels: Where its images begin, as `find_pixels` says.
        rows: Which of its images.
        into: A contiguous array (C, H, W) for each of them, of the type of the set.

    Raises:
        FileNotFoundError: If the part is not there.
        ValueError: If it was cut short since it was looked at.
    """
    with open(part_file(folder, number), "rb", buffering=0) as file:
        for row, image in zip(rows, into, strict=True):
            file.seek(pixels + row * image.nbytes)
            if file.readinto(image.data.cast("B")) != image.nbytes:
                raise ValueError(f"{file.name} is cut short: image {row} of it is not whole; {AGAIN}")


def checksum(folder: Path, number: int, manifest: str, shape: Sequence[int], dtype: np.dtype) -> str:
    """Read a part whole and compare it with what was written.

    Returns:
        Its checksum, sha256 of all but the last line.

    Raises:
        FileNotFoundError: If the part is not there.
        ValueError: If it is cut short, or any byte of it has changed, or it belongs elsewhere.
    """
    file = part_file(folder, number)
    with open(file, "rb") as opened:
        _offset(opened, number, shape, dtype)
        opened.seek(0)
        content = opened.read()
    end = len(content) - _line_length(number)
    digest, (owner, told) = hashlib.sha256(memoryview(content)[:end]).hexdigest(), _told(content[end:])
    if told != digest:
        raise ValueError(f"{file} is damaged: its checksum is not that of what was written; {AGAIN}")
    if owner != [f"{number:06d}", manifest]:
        raise ValueError(f"{file} was not written here: it is part {owner[0]} of the set {owner[1][:12]}; {AGAIN}")
    return digest


def _offset(file: BinaryIO, number: int, shape: Sequence[int], dtype: np.dtype) -> int:
    """Where the pixels begin in a part of this shape and type, which the file must be by its header and its size."""
    size = os.fstat(file.fileno()).st_size
    try:
        found = read_header(file)
    except ValueError:
        found = None
    whole = file.tell() + math.prod(shape) * dtype.itemsize + _line_length(number)
    if size < whole:
        raise ValueError(f"{file.name} is cut short: {size} bytes instead of {whole}; {AGAIN}")
    if found != (tuple(shape), False, dtype) or size > whole:
        raise ValueError(f"{file.name} is damaged: it is no array {tuple(shape)} of {dtype} with a checksum; {AGAIN}")
    return file.tell()


def _line_length(number: int) -> int:
    return len(f"{number:06d}") + DIGESTS


def _line(number: int, manifest: str, digest: str) -> bytes:
    return f"{number:06d} {manifest} {digest}\n".encode()


def _told(line: bytes) -> tuple[list[str], str]:
    """What the last line of a part says: (part, set), checksum."""
    words = line.decode("ascii", "replace").removesuffix("\n").split(" ")
    return words[:-1], words[-1]
