"""Files of torch.save, and plain pickles, read by the restricted unpickler.

zip:    <root>/data.pkl with storages named by key in <root>/data/
legacy: pickles of a magic number, a version, the system, the object and the keys; then the storages
plain:  one pickle, whose storages are legacy archives of their own (as EDM's snapshots are)
"""

from __future__ import annotations

import io
import zipfile
from typing import Any

from lit_pursamere.weights.modules import plain
from lit_pursamere.weights.records import Refused, StorageRecord
from lit_pursamere.weights.unpickling import unpickle

__all__ = ["check_zip", "is_legacy", "read_archive"]

LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # the number that torch.save begins with
ZIP_MAGIC = b"PK\x03\x04"


def is_legacy(head: bytes) -> bool:
    """Tell a legacy archive from a plain pickle by its first 32 bytes, whatever the protocol of its pickles."""
    return LEGACY_MAGIC in head[:32]


def read_archive(stream: io.BytesIO) -> Any:
    """Read a file of torch.save or a plain pickle, without running anything in it.

    Args:
        stream: The whole file.

    Returns:
        Its content: tensors, containers, `ModuleState` in place of modules, inert records in place of other objects.

    Raises:
        Refused: If it asks for what cannot be had without running it.
        Exception: Whatever a damaged file provokes; the caller words it.
    """
    return plain(_read(stream, depth=0))


def _read(stream: io.BytesIO, depth: int) -> Any:
    if depth > 1:
        raise Refused("its storages hold archives that hold archives")
    stream.seek(0)
    head = stream.getbuffer()[:32].tobytes()

    def nested(data: bytes) -> StorageRecord:
        storage = _read(io.BytesIO(data), depth + 1)
        if not isinstance(storage, StorageRecord):
            raise Refused(f"a storage in it is a {type(storage).__name__}")
        return storage

    if head.startswith(ZIP_MAGIC):
        return _read_zip(stream, nested)
    return _read_legacy(stream, nested) if is_legacy(head) else unpickle(stream, _no_storage, nested)


def check_zip(file: Any) -> str:
    """Find out whether a zip archive is one of torch.save.

    Args:
        file: Path or open file.

    Returns:
        The archive's root, `archive/` or the like.

    Raises:
        Refused: If it is not, or if its entries are larger than the file.
        zipfile.BadZipFile: If it is damaged or cut short.
    """
    with zipfile.ZipFile(file) as archive:
        entries, names, room = archive.infolist(), archive.namelist(), archive.start_dir
    roots = [name.removesuffix("data.pkl") for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if not roots:
        raise Refused(f"it is a zip archive without torch's data.pkl (it holds {', '.join(names[:3]) or 'nothing'})")
    if f"{roots[0]}constants.pkl" in names:
        raise Refused("it is a TorchScript program, not weights; save the state_dict of the module it was made from")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Refused("its entries are compressed, which torch.save never does; unpack it and look what it is")
    if sum(entry.file_size for entry in entries) > room:
        raise Refused("its entries are larger than the archive")
    return roots[0]


def _read_zip(stream: io.BytesIO, nested: Any) -> Any:
    root = check_zip(stream)
    with zipfile.ZipFile(stream) as archive:
        storages: dict[str, StorageRecord] = {}
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise Refused("it was written on a big-endian machine")

        def storage(kind: Any, key: str, location: str, count: int, *_: Any) -> StorageRecord:
            if key not in storages:
                data = memoryview(bytearray(archive.read(f"{root}data/{key}")))
                storages[key] = StorageRecord(kind.dtype, count, data)
            return storages[key]

        return unpickle(io.BytesIO(archive.read(f"{root}data.pkl")), storage, nested)


def _read_legacy(stream: io.BytesIO, nested: Any) -> Any:
    storages: dict[str, StorageRecord] = {}

    def storage(kind: Any, key: str, location: str, count: int, part: Any = None) -> StorageRecord:
        if key not in storages:
            storages[key] = StorageRecord(kind.dtype, count)
        return storages[key] if part is None else storages[key].view(part[1], part[2])

    _, _, system = (unpickle(stream, _no_storage, nested) for _ in range(3))
    if system.get("little_endian") is False:
        raise Refused("it was written on a big-endian machine")
    content = unpickle(stream, storage, nested)
    for key in unpickle(stream, _no_storage, nested):
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
