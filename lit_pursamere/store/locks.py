"""One run per folder: locks that the operating system takes back whatever becomes of the process.

FOLDER/.lock         held by the first process of a run
FOLDER/.lock-RANK    held by every process
"""

from __future__ import annotations

import errno
import os
import socket
import weakref
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock"]

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


class FolderLock:
    """Keeps other runs from writing to a folder, from construction until `release` or the end of the process.

    Where the file system knows no locks, nothing is kept.

    Args:
        folder: The folder; made if need be.
        rank: Number of this process. The first process comes first; it refuses a folder in which any process of
            another run is left.

    Raises:
        OSError: If another run holds the folder; the message says which.
    """

    def __init__(self, folder: str | Path, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.held: list[BinaryIO] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        # A process forked off, such as a loader's worker, would hold the lock for as long as it outlives this one.
        own = weakref.ref(self)
        if hasattr(os, "register_at_fork"):

            def forget() -> None:
                if (lock := own()) is not None:
                    lock._forget()

            os.register_at_fork(after_in_child=forget)
        try:
            if rank == 0:
                self._take(".lock")
                for file in sorted(self.folder.glob(".lock-*")):
                    self._take(file.name)
                for lock in self.held[1:]:
                    lock.close()
                del self.held[1:]
            self._take(f".lock-{rank}")
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Let other runs in."""
        for file in self.held:
            fcntl.flock(file, fcntl.LOCK_UN)
        self._forget()

    def _forget(self) -> None:
        """Close the files; the locks stay with the parent process, if this is a child of it."""
        for file in self.held:
            file.close()
        self.held.clear()

    def _take(self, name: str) -> None:
        if fcntl is None:
            return
        file = open(self.folder / name, "a+b")  # noqa: SIM115 (held open for as long as the lock)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read(200).decode(errors="replace").strip()
            file.close()
            if error.errno in NO_LOCKS:
                return
            raise OSError(
                f"another run ({holder or 'unknown process'}) is writing to {self.folder}; wait for it, stop it, or "
                "choose another `output` folder"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        file.flush()
        self.held.append(file)
