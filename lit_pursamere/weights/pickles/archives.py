"""Files of torch.save, and plain pickles: which pickles they are made of, and where the numbers are.

zip:    <root>/data.pkl with storages named by key in <root>/data/
legacy: pickles of a magic number, a version, the system, the object and the keys; then the storages
plain:  one pickle, whose storages are legacy archives of their own (as EDM's snapshots are)
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from functools import partial
from typing import IO, Any

import torch
from torch import Tensor

from lit_pursamere.weights.pickles.machine import Machine
from lit_pursamere.weights.pickles.modules import states
from lit_pursamere.weights.pickles.tensors import Refused, Room

__all__ = ["is_legacy", "read_pickle"]

LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # the number that torch.save begins with


def read_pickle(stream: IO[bytes], objects: bool = True) -> Any:
    """Read a file of torch.save or a plain pickle, without running anything in it.

    Args:
        stream: The file.
        objects: Whether it may hold objects of classes that are not tensors or plain containers.

    Returns:
        Its content: tensors on the CPU, which may share their numbers; containers; `ModuleState` in place of modules;
        inert records in place of other objects.

    Raises:
        NeedsCode: If it asks for what cannot be had without running it.
        Refused: If it does not hold together, or would take time or memory out of proportion.
        Exception: Whatever a damaged file provokes.
    """
    room = Room(stream.seek(0, os.SEEK_END))

    def nested(data: bytes) -> Any:
        return _read(io.BytesIO(data), partial(Machine, room, objects, nested=_none))

    return states(_read(stream, partial(Machine, room, objects, nested=nested)))


def is_legacy(head: bytes) -> bool:
    """Tell a legacy archive from a plain pickle by its first 32 bytes, whatever the protocol of its pickles."""
    return LEGACY_MAGIC in head[:32]


def _read(stream: IO[bytes], machine: Callable[..., Machine]) -> Any:
    stream.seek(0)
    head = stream.read(32)
    stream.seek(0)
    if head.startswith(b"PK"):
        return _read_zip(stream, machine)
    return _read_legacy(stream, machine) if is_legacy(head) else machine(storage=_none).read(stream)


def _none(*_: Any) -> Any:
    raise Refused("it names numbers that it does not hold")


def _root(archive: zipfile.ZipFile) -> str:
    """Where in a zip archive its pickle and numbers are, `archive/` or the like; Refused if torch did not write it."""
    entries, names = archive.infolist(), archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if not roots:
        raise Refused(f"it is a zip archive without torch's data.pkl (it holds {', '.join(names[:3]) or 'nothing'})")
    if f"{roots[0]}constants.pkl" in names:
        raise Refused("it is a TorchScript program, not weights; save the state_dict of the module it was made from")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise Refused("its entries are compressed, which torch.save never does; unpack it and look what it is")
    if sum(entry.file_size for entry in entries) > archive.start_dir:
        raise Refused("its entries are larger than the archive")
    if len({name.lower() for name in names}) < len(names) or len(roots) > 1:
        raise Refused("two of its entries have one name")
    return roots[0]


def _read_zip(stream: IO[bytes], machine: Callable[..., Machine]) -> Any:
    with zipfile.ZipFile(stream) as archive:  # which checks the checksum of every entry that it reads
        root = _root(archive)
        storages: dict[str, Tensor] = {}
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise Refused("it was written on a big-endian machine")

        def storage(dtype: torch.dtype, key: str, *_: Any) -> Tensor:
            if key not in storages:
                numbers = bytearray(archive.read(f"{root}data/{key}"))
                storages[key] = torch.frombuffer(numbers, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
            return storages[key]

        return machine(storage=storage).read(io.BytesIO(archive.read(f"{root}data.pkl")))


def _read_legacy(stream: IO[bytes], machine: Callable[..., Machine]) -> Any:
    room = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, place: Any, count: int, part: Any = None) -> Tensor:
        nonlocal room
        if key not in storages:
            room -= count * dtype.itemsize
            storages[key] = torch.empty(count if room >= 0 else -1, dtype=dtype)
        return storages[key] if part is None else storages[key].narrow(0, *part[1:])

    pickles = machine(storage=storage)
    _, _, system = (pickles.read(stream) for _ in range(3))
    if system.get("little_endian") is False:
        raise Refused("it was written on a big-endian machine")
    content = pickles.read(stream)
    keys = pickles.read(stream)
    if sorted(keys) != sorted(storages):
        raise Refused("the storages that it holds are not those of its tensors")
    for key in keys:
        numbers, count = storages[key].view(torch.uint8).numpy(), int.from_bytes(stream.read(8), "little")
        if count != len(storages[key]) or stream.readinto(numbers) != len(numbers):  # type: ignore[attr-defined]
            raise EOFError("a storage ends early")
    return content
