"""Appending to a file so that what was acknowledged is on disk, and what was not can be told apart and cut off.

A line of JSON counts when its newline is there, an entry of fixed size when all of its bytes are.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from lit_pursamere.store.atomic import sync_folder
from lit_pursamere.store.locks import require_held

__all__ = ["Key", "Row", "append", "append_rows", "cut_tail", "end_line", "read_rows"]

Row = dict[str, Any]  # JSON values by name
Key = TypeVar("Key", bound=Hashable)


def append(path: Path, content: bytes) -> None:
    """Append bytes to a file, made if need be, and force them to disk.

    Raises:
        OSError: If they cannot be written, with what to do about it; some of them may then be in the file.
    """
    require_held(path)
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
        require_held(path)  # it may be gone just now
        raise OSError(
            f"cannot write {path}: {error.strerror}; mend that and run the same command again, it continues"
        ) from error


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Append rows as lines of JSON; errors as `append` raises them."""
    append(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def read_rows(path: Path, key_of: Callable[[Row], Key], run: str | None = None) -> dict[Key, Row]:
    """The rows of a file of JSON lines by their keys, of each key the last one; a line without its end is left out.

    Args:
        path: The file; without it there are no rows.
        key_of: The key of a row; may raise ValueError, KeyError or TypeError if the row is none.
        run: Rows that name another `run` are left out, with a warning (None: all count).

    Raises:
        ValueError: If a line is damaged; the message names file and line.
    """
    rows: dict[Key, Row] = {}
    foreign = 0
    content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = key_of(row)
            own = run is None or row.get("run", run) == run
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            told = " ".join(str(error).split())[:120]
            raise ValueError(f"{path}, line {number} is damaged ({told}); remove that line and run again") from None
        foreign += not own
        if own:
            rows[key] = row
    if foreign:
        warnings.warn(f"{path} holds {foreign} rows of another run; they are left out", stacklevel=2)
    return rows


def end_line(path: Path) -> None:
    """End what a killed process left unfinished in a file of lines to which others may be appending."""
    if path.is_file() and path.stat().st_size:
        with open(path, "rb") as file:
            file.seek(-1, os.SEEK_END)
            whole = file.read(1) == b"\n"
        if not whole:
            append(path, b"\n")


def cut_tail(path: Path, size: int | None = None) -> int:
    """Remove what a killed process left unfinished at the end of a file.

    Args:
        path: The file; it need not be there.
        size: Bytes of an entry. None: entries are lines.

    Returns:
        How many bytes are left.
    """
    if not path.is_file():
        return 0
    there = path.stat().st_size
    whole = path.read_bytes().rfind(b"\n") + 1 if size is None else there // size * size
    if whole < there:
        with open(path, "r+b") as file:
            file.truncate(whole)
    return whole
