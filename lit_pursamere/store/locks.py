"""One run per folder: locks that the operating system takes back whatever becomes of the process.

FOLDER/.lock         shared by all processes of a run; held alone while the folder is prepared
FOLDER/.lock-RANK    held by the one process that owns the files with this number

The first process of a run prepares the folder before the others come; of shards, which know of no other, whoever is
there first.

Nothing is written into a folder that this process has locked once the lock is no longer in it: the folder was removed,
and what is there now belongs to others.
"""

from __future__ import annotations

import errno
import os
import socket
import time
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderLock", "require_held"]

NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
PATIENCE = 5.0  # seconds that another process may take to prepare the folder
CROWD = 12  # times as many where many may come at once
HELD: weakref.WeakValueDictionary[Path, FolderLock] = weakref.WeakValueDictionary()  # what this process has locked


class FolderLock:
    """Keeps other runs from writing to a folder, from construction until `release` or the end of the process.

    Where the file system knows no locks, a file that names the process stands for the lock of this rank.

    Args:
        folder: The folder; made if need be.
        rank: Number of this process.
        first: Whether it may be `alone` there, until it calls `share` (None: if its number is 0).
        name: What this process is, for whoever is refused.
        ready: Whether the folder is prepared, so that others may come.

    Raises:
        OSError: If another process holds this number; the message says which.
    """

    def __init__(
        self,
        folder: str | Path,
        rank: int = 0,
        first: bool | None = None,
        name: str = "",
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        self.folder, self.number, self.name = Path(folder), f".lock-{rank}", name
        self.place = self.folder.absolute()
        self.held: dict[str, BinaryIO] = {}
        self.soft: Any = None
        self.folder.mkdir(parents=True, exist_ok=True)
        # A process forked off, such as a loader's worker, would hold the lock for as long as it outlives this one.
        own = weakref.ref(self)
        if hasattr(os, "register_at_fork"):

            def forget() -> None:
                if (lock := own()) is not None:
                    lock._forget()

            os.register_at_fork(after_in_child=forget)
        try:
            self.alone = self._enter(rank == 0 if first is None else first, ready)
            self._own()
        except BaseException:
            self.release()
            raise
        HELD[self.place] = self

    def share(self) -> None:
        """Let other processes of this run in."""
        if self.alone and ".lock" in self.held:
            fcntl.flock(self.held[".lock"], fcntl.LOCK_SH)
        self.alone = False

    def require(self) -> None:
        """Raise OSError unless the folder is still the one that was locked."""
        if self.soft is not None:
            there = self.soft.is_lock_held_by_us
        else:
            there = all(same_file(file, self.folder / name) for name, file in self.held.items())
        if not there:
            raise OSError(
                f"{self.folder} was removed or replaced while this run had it open, so nothing more is written there; "
                "start the command again"
            )

    def release(self) -> None:
        """Let other runs in."""
        for file in self.held.values():
            fcntl.flock(file, fcntl.LOCK_UN)
        if self.soft is not None:
            self.soft.release()
            self.soft = None
        self._forget()

    def _forget(self) -> None:
        """Close the files; the locks stay with the parent process, if this is a child of it."""
        for file in self.held.values():
            file.close()
        self.held.clear()
        if HELD.get(self.place) is self:
            del HELD[self.place]

    def _enter(self, first: bool, ready: Callable[[], bool]) -> bool:
        """Take the lock that a run shares; returns whether this process has it alone."""
        patience = time.monotonic() + PATIENCE * (CROWD if first and self.name else 1)
        while True:
            if first and self._take(".lock", shared=False):
                return True
            if self._take(".lock", shared=True):
                if ready():
                    return False
                self.held.pop(".lock").close()  # whoever prepared the folder was killed before it was done
            if time.monotonic() > patience:
                raise self._taken()
            time.sleep(0.05)

    def _own(self) -> None:
        """Take the lock of this process's number."""
        if not self._take(self.number, shared=False):
            raise self._taken()
        if self.number in self.held:
            self.held[self.number].truncate(0)
            name = f", {self.name}" if self.name else ""
            self.held[self.number].write(f"process {os.getpid()} on {socket.gethostname()}{name}".encode())
            self.held[self.number].flush()
        else:
            self._own_softly()

    def _own_softly(self) -> None:
        from filelock import SoftFileLock, Timeout

        warnings.warn(
            f"the file system of {self.folder} knows no locks; {self.number}.soft, which names this process, stands "
            "for one",
            stacklevel=2,
        )
        soft = SoftFileLock(self.folder / f"{self.number}.soft", timeout=0)
        try:
            soft.acquire()
        except Timeout:
            raise OSError(
                f"another run (process {soft.pid or 'unknown'}) is writing to {self.folder}; wait for it, stop it, or "
                f"choose another `output` folder. If no run is left there, remove {soft.lock_file}"
            ) from None
        self.soft = soft

    def _take(self, name: str, shared: bool) -> bool:
        """Lock a file if nobody else has it; also true where there are no locks."""
        if fcntl is None:
            return True
        file = open(self.folder / name, "a+b")  # noqa: SIM115 (held open for as long as the lock)
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            if error.errno not in NO_LOCKS and error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            return error.errno in NO_LOCKS
        if not same_file(file, self.folder / name):  # it was removed between the two calls
            file.close()
            return False
        self.held[name] = file
        return True

    def _taken(self) -> OSError:
        try:
            holder = (self.folder / self.number).read_bytes()[:200].decode(errors="replace").strip()
        except OSError:
            holder = ""
        return OSError(
            f"another run ({holder or 'unknown process'}) is writing to {self.folder}; wait for it, stop it, or choose "
            "another `output` folder"
        )


def require_held(path: Path) -> None:
    """Before a file is written: if this process has locked a folder around it, that must still be the one.

    Raises:
        OSError: If it is gone.
    """
    for folder in path.absolute().parents:
        if (lock := HELD.get(folder)) is not None:
            lock.require()


def same_file(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
