"""Every change of a file that a process makes passes here, is counted, and may go wrong.

    open for writing, write, fsync, rename, unlink, mkdir, rmdir, truncate, and whole files written by native code
    each has points:  before, half (writes only), after;  points are numbered from 1

Wraps functions of os and builtins in the process that calls `arm`; nothing of the package is touched. Only files below
one folder count. Libraries that write without Python (a memory map) are not seen.
"""

from __future__ import annotations

import builtins
import errno
import functools
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["VARIABLE", "arm"]

VARIABLE = "FAULTS"  # in the environment: JSON of `arm`'s arguments, for processes that a run starts
REAL = {name: getattr(os, name) for name in ("open", "getpid", "kill")}
REAL_OPEN = builtins.open


class Plan:
    """What is to happen at which point.

    Args:
        root: Folder whose files count.
        log: File that gets a line of JSON per point; with `bytes`, the content that was written, too.
        at: Number of the point at which it happens (None: never).
        what: A signal to `all` of the group or to `one`, such as `SIGKILL all` (SIGCONT follows a second after SIGSTO;
            `delete` (the folder `victim`); or the name of an error, such as ENOSPC.
        lasting: Whether an error holds for every later write as well.
        process: In which process of several that share the work, by its rank.
        verb: In the process of which verb, as an experiment has several (None: in any).
        victim: Folder that `delete` removes.
        bytes: Whether to log content, for a replay after a loss of power.
        tensors: Whether to watch safetensors, too, for which torch is imported.
    """

    def __init__(
        self, root: str, log: str | None = None, at: int | None = None, what: str = "", lasting: bool = True,
        process: int = 0, verb: str | None = None, victim: str | None = None, bytes: bool = False, tensors: bool = True,
    ) -> None:  # fmt: skip
        self.tensors = tensors
        self.root, self.at, self.what, self.lasting, self.victim = os.path.realpath(root), at, what, lasting, victim
        self.rank = int(os.environ.get("LOCAL_RANK", 0))
        self.verb = verb_of_this_process()
        self.here = process == self.rank and verb in (None, self.verb)
        self.count, self.bytes = 0, bytes
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.log = REAL["open"](log, flags, 0o644) if log else None

    def covers(self, path: Any) -> bool:
        try:
            whole = os.path.realpath(os.fspath(path))
        except (TypeError, ValueError):
            return False
        return isinstance(whole, str) and whole.startswith(self.root + os.sep)

    def point(self, kind: str, path: Any, when: str, **more: object) -> None:
        """Count a point, log it, and let happen what is planned here."""
        self.count += 1
        if self.log is not None:
            name = os.path.relpath(os.path.realpath(os.fspath(path)), self.root)
            entry = {"n": self.count, "kind": kind, "path": name, "when": when, "process": self.rank}
            entry |= {"verb": self.verb, **more}
            os.write(self.log, (json.dumps(entry) + "\n").encode())
        if self.at is None or not self.here or not (self.count == self.at or (self.count > self.at and self.again)):
            return
        if self.what.startswith("SIG"):
            return self.signal(*self.what.split())
        if self.what == "delete":
            return self.delete()
        if kind in ("unlink", "remove", "rmdir", "truncate") and self.what != "EROFS":
            return  # what a full disk allows
        if when == "after" and self.count == self.at:
            self.at += 1  # an error comes instead of what it is about
        elif when != "after":
            number = getattr(errno, self.what)
            raise OSError(number, os.strerror(number), os.fspath(path))

    @property
    def again(self) -> bool:
        return self.lasting and not self.what.startswith("SIG") and self.what != "delete"

    def signal(self, name: str, whom: str) -> None:
        group = os.getpgrp()
        if name == "SIGSTOP":
            os.posix_spawn("/bin/sh", ["sh", "-c", f"sleep 1; kill -s CONT -- -{group}"], os.environ, setpgroup=0)
        if whom == "all":
            os.killpg(group, getattr(signal, name))
        else:
            REAL["kill"](REAL["getpid"](), getattr(signal, name))

    def delete(self) -> None:
        import shutil

        active, self.here = self.here, False
        shutil.rmtree(self.victim or self.root, ignore_errors=True)
        self.here = active


def verb_of_this_process() -> str:
    words = sys.orig_argv[sys.orig_argv.index("lit_pursamere") :] if "lit_pursamere" in sys.orig_argv else sys.argv
    return words[1] if len(words) > 1 else ""


def arm(**settings: Any) -> Plan:
    """Wrap the functions of this process; arguments as in `Plan`."""
    plan = Plan(**settings)
    for name in ("unlink", "remove", "mkdir", "rmdir", "truncate"):
        setattr(os, name, one_path(plan, name, getattr(os, name)))
    for name in ("replace", "rename"):
        setattr(os, name, two_paths(plan, getattr(os, name)))
    os.fsync = of_handle(plan, "fsync", os.fsync)
    os.open = opening(plan, os.open)
    builtins.open = io.open = functools.partial(opened, plan)
    if plan.tensors:
        native(plan)
    return plan


def one_path(plan: Plan, kind: str, call: Callable) -> Callable:
    @functools.wraps(call)
    def wrapped(path: Any, *args: Any, **options: Any) -> Any:
        where = path
        if options.get("dir_fd") is not None:
            where = os.path.join(os.readlink(f"/proc/self/fd/{options['dir_fd']}"), path)
        if isinstance(path, int) or not plan.covers(where):
            return call(path, *args, **options)
        if kind in ("unlink", "remove", "rmdir") and not os.path.lexists(where):
            return call(path, *args, **options)
        plan.point(kind, where, "before")
        found = call(path, *args, **options)
        plan.point(kind, where, "after", **({"size": args[0]} if kind == "truncate" else {}))
        return found

    return wrapped


def two_paths(plan: Plan, call: Callable) -> Callable:
    @functools.wraps(call)
    def wrapped(old: Any, new: Any, **options: Any) -> None:
        if not plan.covers(new):
            return call(old, new, **options)
        plan.point("rename", new, "before")
        call(old, new, **options)
        plan.point("rename", new, "after", old=os.path.relpath(os.path.realpath(old), plan.root))

    return wrapped


def of_handle(plan: Plan, kind: str, call: Callable) -> Callable:
    @functools.wraps(call)
    def wrapped(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        if not plan.covers(path):
            return call(handle)
        plan.point(kind, path, "before")
        call(handle)
        plan.point(kind, path, "after")

    return wrapped


def opening(plan: Plan, call: Callable) -> Callable:
    @functools.wraps(call)
    def wrapped(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or options or not plan.covers(path):
            return call(path, flags, *args, **options)
        plan.point("open", path, "before")
        found = call(path, flags, *args, **options)
        plan.point("open", path, "after", cut=bool(flags & os.O_TRUNC))
        return found

    return wrapped


class File(io.FileIO):
    """A file whose every write is a point; half of it may get there."""

    plan: Plan

    def write(self, data: Any) -> int:
        view, path = memoryview(data).cast("B"), self.name
        if not self.plan.covers(path) or not len(view):
            return super().write(data)
        self.plan.point("write", path, "before")
        middle = len(view) // 2
        done = super().write(view[:middle]) if middle else 0
        self.plan.point("write", path, "half", **self.told(view[:done]))
        if done == middle:
            done += super().write(view[middle:])
        self.plan.point("write", path, "after", **self.told(view[middle:done]))
        return done

    def truncate(self, size: int | None = None) -> int:
        if not self.plan.covers(self.name):
            return super().truncate(size)
        self.plan.point("truncate", self.name, "before")
        found = super().truncate(size)
        self.plan.point("truncate", self.name, "after", size=found)
        return found

    def told(self, piece: memoryview) -> dict[str, object]:
        """What a replay needs: the content, and where it stands."""
        if not self.plan.bytes:
            return {}
        return {"data": bytes(piece).hex(), "offset": os.lseek(self.fileno(), 0, os.SEEK_CUR) - len(piece)}


def opened(
    plan: Plan, file: Any, mode: str = "r", buffering: int = -1, encoding: str | None = None,
    errors: str | None = None, newline: str | None = None, closefd: bool = True, opener: Any = None,
) -> Any:  # fmt: skip
    """builtins.open, for writing through `File`."""
    if isinstance(file, int) or not set(mode) & set("wax+") or not plan.covers(file):
        return REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
    plan.point("open", file, "before")
    raw = File(file, mode.replace("t", ""), closefd, opener)
    raw.plan = plan
    plan.point("open", file, "after", cut="w" in mode)
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    buffered = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
    if "b" in mode:
        return buffered
    text = io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
    text.mode = mode
    return text


def native(plan: Plan) -> None:
    """Whole files that safetensors writes by itself."""
    try:
        from safetensors import torch as tensors
    except ImportError:
        return
    call = tensors.serialize_file

    @functools.wraps(call)
    def wrapped(content: Any, path: Any, *args: Any, **options: Any) -> None:
        if not plan.covers(path):
            return call(content, path, *args, **options)
        plan.point("open", path, "before")
        call(content, path, *args, **options)
        whole = Path(path).stat().st_size
        if plan.at == plan.count + 1 and plan.here and plan.what.startswith("kill"):
            os.truncate(path, whole // 2)
        with REAL_OPEN(path, "rb") as file:
            data = file.read() if plan.bytes else b""
        plan.point("write", path, "half", **({"data": data.hex(), "offset": 0} if plan.bytes else {}))
        plan.point("write", path, "after", **({"data": "", "offset": whole} if plan.bytes else {}))

    tensors.serialize_file = wrapped
