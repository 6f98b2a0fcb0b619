"""Appending to a file so that what was acknowledged is on disk, and what was not can be told apart and cut off."""

from __future__ import annotations

import os
from pathlib import Path

from lit_pursamere.store.atomic import sync_folder

__all__ = ["append"]


def append(path: Path, content: bytes) -> None:
    """Append bytes to a file, made if need be, and force them to disk.

    Raises:
        OSError: If they cannot be written, with what to do about it; some of them may then be in the file.
    """
    try:
        new = not path.exists()
        with open(path, "ab", buffering=0) as file:
            written = 0
            while written < len(content):  # an unbuffered write may stop halfway on a disk that fills up
                written += file.write(content[written:])
            os.fsync(file.fileno())
        if new:
            sync_folder(path.parent)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror}; mend that and run the same command again, it continues"
        ) from error
