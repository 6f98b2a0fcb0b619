"""Files of torch.save, and plain pickles: which pickles they are made of, and where the numbers are.

zip:    <root>/data.pkl with storages named by key in <root>/data/
legacy: pickles of a magic number, a version, the system, the object and the keys; then the storages
plain:  one pickle, whose storages are legacy archives of their own (as EDM's snapshots are)
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lit_pursamere.weights.pickles.checks import check_zip, is_legacy
from lit_pursamere.weights.pickles.modules import Builder
from lit_pursamere.weights.pickles.records import Refused, StorageRecord
from lit_pursamere.weights.pickles.unpickling import unpickle

__all__ = ["read_pickle"]


def read_pickle(file: str | Path | io.BytesIO, objects: bool = True) -> Any:
    """Read a file of torch.save or a plain pickle, without running anything in it.

    Args:
        file: Path, or the whole file in memory.
        objects: Whether it may hold objects of classes that are not tensors or plain containers.

    Returns:
        Its content: tensors on the CPU, containers, `ModuleState` in place of modules, inert records in place of
        other objects.

    Raises:
        NeedsCode: If it asks for what cannot be had without running it.
        Refused: If it does not hold together, or would take time or memory out of proportion.
        Exception: Whatever a damaged file provokes; the caller words it.
    """
    stream = file if isinstance(file, io.BytesIO) else io.BytesIO(Path(file).read_bytes())
    return Builder(stream.getbuffer().nbytes).plain(_read(stream, partial(unpickle, objects=objects), depth=0))


def _read(stream: io.BytesIO, read: Callable, depth: int) -> Any:
    if depth > 1:
        raise Refused("its storages hold archives that hold archives")

    def nested(data: bytes) -> StorageRecord:
        storage = _read(io.BytesIO(data), read, depth + 1)
        if not isinstance(storage, StorageRecord):
            raise Refused(f"a storage in it is a {type(storage).__name__}")
        return storage

    stream.seek(0)
    head = stream.getbuffer()[:32].tobytes()
    read = partial(read, nested=nested)
    if head.startswith(b"PK"):
        return _read_zip(stream, read)
    return _read_legacy(stream, read) if is_legacy(head) else read(stream, _no_storage)


def _read_zip(stream: io.BytesIO, read: Callable) -> Any:
    root = check_zip(stream)
    with zipfile.ZipFile(stream) as archive:
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        storages: dict[str, StorageRecord] = {}
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise Refused("it was written on a big-endian machine")

        def storage(kind: Any, key: str, location: str, count: int, *_: Any) -> StorageRecord:
            if key not in storages:
                storages[key] = StorageRecord(kind.dtype, count, memoryview(archive.read(f"{root}data/{key}")))
            return storages[key]

        return read(io.BytesIO(archive.read(f"{root}data.pkl")), storage)


def _read_legacy(stream: io.BytesIO, read: Callable) -> Any:
    storages: dict[str, StorageRecord] = {}

    def storage(kind: Any, key: str, location: str, count: int, part: Any = None) -> StorageRecord:
        if key not in storages:
            storages[key] = StorageRecord(kind.dtype, count)
        return storages[key] if part is None else storages[key].view(part[1], part[2])

    _, _, system = (read(stream, _no_storage) for _ in range(3))
    if system.get("little_endian") is False:
        raise Refused("it was written on a big-endian machine")
    content = read(stream, storage)
    for key in read(stream, _no_storage):
        if key not in storages:
            raise Refused("it holds a storage that belongs to no tensor")
        count = int.from_bytes(stream.read(8), "little", signed=True)
        start, stop = stream.tell(), stream.tell() + count * storages[key].dtype.itemsize
        if count != storages[key].count or stop > stream.getbuffer().nbytes:
            raise EOFError("it is cut short")
        storages[key].data = stream.getbuffer()[start:stop]
        stream.seek(stop)
    return content


def _no_storage(*_: Any) -> StorageRecord:
    raise Refused("it names a storage that it does not hold")
