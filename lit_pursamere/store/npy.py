"""Files of NumPy arrays, of which any byte may have changed, or been chosen by a stranger."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO

import numpy as np

__all__ = ["READ_ERRORS", "map_array", "read_header"]

UNNAMED = (TypeError, LookupError, SyntaxError, TokenError)  # NumPy's parser of headers raises these, undocumented
READ_ERRORS = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, *UNNAMED)


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape of the array in a file, whether it lies in the order of Fortran, and its type.

    Raises:
        ValueError: If there is none, or it is of a version that only arrays of records need.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"its format has the unknown version {version}")
    try:
        return readers[version](file)
    except (*UNNAMED, MemoryError) as error:  # of a few bytes: nothing was allocated yet
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error


def map_array(path: Path) -> np.ndarray:
    """The array of a .npy file, read from disk where it is looked at: it is no longer than the file.

    Raises:
        READ_ERRORS: If the file is none, is cut short, or holds pickled objects.
    """
    with open(path, "rb") as file:
        read_header(file)
    return np.load(path, mmap_mode="r", allow_pickle=False)
