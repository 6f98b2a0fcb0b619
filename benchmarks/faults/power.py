"""Loss of power: of what was written up to some point, only what was forced to disk is sure to be there.

    log every write, fsync, rename, unlink of a whole run  ->  what the disk may hold at a point  ->  the same command

Content is sure after an fsync of its file, a name after an fsync of its folder; whatever else may be there or not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from benchmarks.faults.bad_inputs import ERROR
from benchmarks.faults.interrupted import Bench, Whole, sample, told
from benchmarks.faults.results import PASSED

__all__ = ["ORDERS", "Disk", "attempts"]

VERBS = ("FIT", "PREDICT", "KEEP", "AUDIT", "PURIFY", "ARRAY")


@dataclass
class Inode:
    """A file's content, now and as it was forced to disk, and the writes since."""

    now: bytearray = field(default_factory=bytearray)
    sure: bytes = b""
    writes: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        put(self.now, offset, data)
        self.writes.append((offset, data))

    def some(self, rng: random.Random) -> bytes:
        found = bytearray(self.sure)
        for offset, data in self.writes:
            if rng.random() < 0.5:
                put(found, offset, data)
        return bytes(found)


def put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(b"\0" * (offset - len(content)))
    content[offset : offset + len(data)] = data


class Disk:
    """What a disk may hold after a part of a log.

    Args:
        place: The folder as it was before the run.
        points: The log, up to the loss of power.
    """

    def __init__(self, place: Path, points: list[dict]) -> None:
        self.names: dict[str, Inode] = {}
        self.sure: dict[str, Inode] = {}
        self.pending: list[tuple[str, str, Inode | None]] = []  # folder, name, what it names since the last fsync
        self.touched: set[str] = set()
        self.place = place
        for point in points:
            self.apply(**point)

    def inode(self, path: str) -> Inode | None:
        file = self.place / path
        if path not in self.touched and file.is_file():
            content = file.read_bytes()
            self.names[path] = self.sure[path] = Inode(bytearray(content), content)
        self.touched.add(path)
        return self.names.get(path)

    def name(self, path: str, inode: Inode | None) -> None:
        self.names.pop(path, None)
        if inode is not None:
            self.names[path] = inode
        self.pending.append((str(PurePosixPath(path).parent), path, inode))

    def apply(self, kind: str, path: str, when: str, data: str = "", offset: int = 0, size: int = 0, cut: bool = False,
              old: str = "", **unused: object) -> None:  # fmt: skip
        if kind in ("mkdir", "rmdir") or when == "before":
            return
        if kind == "fsync" and path not in self.touched:  # a folder
            return self.force_names(path)
        inode = self.inode(path)
        if kind == "open":
            if inode is None:
                self.name(path, inode := Inode())
            if cut:
                inode.now.clear()
                inode.writes.append((0, b""))
        elif kind == "write" and inode is not None:
            inode.write(offset, bytes.fromhex(data))
        elif kind == "truncate" and inode is not None:
            del inode.now[size:]
        elif kind == "fsync" and inode is not None:
            inode.sure, inode.writes = bytes(inode.now), []
        elif kind == "rename":
            moved = self.inode(old)
            self.name(path, moved)
            self.name(old, None)
        elif kind in ("unlink", "remove"):
            self.name(path, None)

    def force_names(self, folder: str) -> None:
        for where, path, inode in self.pending:
            if where == folder:
                assign(self.sure, path, inode)
        self.pending = [entry for entry in self.pending if entry[0] != folder]

    def some_names(self, rng: random.Random) -> dict[str, Inode]:
        found, kept = dict(self.sure), True
        for _, path, inode in self.pending:
            if inode is not None:  # a name's removal after a rename belongs to the rename
                kept = rng.random() < 0.5
            if kept:
                assign(found, path, inode)
        return found

    def restore(self, names: dict[str, Inode], content: Callable[[Inode], bytes]) -> None:
        """Write what is left into the folder."""
        for path in self.touched:
            file = self.place / path
            if path in names:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content(names[path]))
            else:
                file.unlink(missing_ok=True)


def assign(names: dict[str, Inode], path: str, inode: Inode | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode


def zeros(inode: Inode) -> bytes:
    return inode.sure[: len(inode.now)] + b"\0" * (len(inode.now) - len(inode.sure))


ORDERS: dict[str, Callable[[Disk, random.Random], None]] = {
    "names before content": lambda disk, rng: disk.restore(disk.names, lambda inode: inode.sure),
    "names before content, zeros instead": lambda disk, rng: disk.restore(disk.names, zeros),
    "content before names": lambda disk, rng: disk.restore(disk.sure, lambda inode: bytes(inode.now)),
    "neither content nor names": lambda disk, rng: disk.restore(disk.sure, lambda inode: inode.sure),
    "some of the writes": lambda disk, rng: disk.restore(disk.names, lambda inode: inode.some(rng)),
    "some of the names": lambda disk, rng: disk.restore(disk.some_names(rng), lambda inode: bytes(inode.now)),
}


def attempts(bench: Bench, count: int, seed: int) -> Iterator[tuple[str, Callable[[], dict]]]:
    """So many losses of power for every verb and order."""
    for number in range(count):
        for line in VERBS:
            for order in ORDERS:
                name = f"{order}: {line} #{number}"
                yield name, bench.tried(line, lost(bench, order, f"{seed} {name}"))


def lost(bench: Bench, order: str, seed: str) -> Callable[[Whole], dict]:
    def attempt(whole: Whole) -> dict:
        [point] = sample([point for point in whole.points if point["when"] == "after"], 1, seed)
        bench.fresh()
        disk = Disk(bench.place, [entry for entry in whole.points if entry["n"] <= point["n"]])
        ORDERS[order](disk, random.Random(seed))
        outcome, said = bench.again(whole.line)
        refused = outcome == "does not go on: status 1" and said.count(ERROR) == 1 and "Traceback" not in said
        return {"outcome": PASSED if refused else outcome, "refused": refused, "said": f"{told(point)}: {said}"}

    return attempt
