"""Files that are there whole or not at all, whatever becomes of the process or the machine that writes them.

write to NAME.HOST-PROCESS.part -> force to disk -> rename to NAME -> force the folder to disk
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from lit_pursamere.store.locks import require_held

__all__ = ["remove_leftovers", "replacing", "sync_folder", "write_whole"]

SUFFIX = ".part"
CLEARED: set[Path] = set()  # folders in which this process has looked for what killed ones left half written


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write within, which then takes the place of the file in one step; or is gone, after an error.

    Args:
        path: The file; its folder exists.

    Raises:
        OSError: If it cannot be written, with what to do about it; the file is then what it was before.
    """
    require_held(path)
    if path.parent not in CLEARED:
        CLEARED.add(path.parent)
        remove_abandoned(path.parent)
    # Of its own name, so that not even two runs that know nothing of each other write to the same temporary file.
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}{SUFFIX}")
    try:
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())  # or a crash could leave an empty file under the final name
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        require_held(path)  # it may be gone just now
        raise OSError(f"cannot write {path}: {error.strerror or error}; mend that and run the command again") from error


def write_whole(path: Path, *content: bytes | memoryview) -> None:
    """Write a file, or replace it by a new one, in one step that cannot be seen half done.

    Args:
        path: The file; its folder exists.
        content: Its bytes, one piece after the other.

    Raises:
        OSError: As `replacing`.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        for piece in content:
            file.write(piece)


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk: the content of a new file is of no use without its name."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left half written, of files of that name; for whoever keeps others from writing."""
    for file in folder.glob(f"{name}.*-*[0-9]{SUFFIX}"):  # NAME.HOST-PROCESS.part
        file.unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> None:
    """Remove what processes of this machine left half written that are no more; whoever else writes there."""
    for file in folder.glob(f"*.{escape(socket.gethostname())}-*[0-9]{SUFFIX}"):
        process = file.name.removesuffix(SUFFIX).rpartition("-")[2]
        if process.isdecimal() and not running(int(process)):
            file.unlink(missing_ok=True)


def running(process: int) -> bool:
    """Whether there is a process with this id."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True
