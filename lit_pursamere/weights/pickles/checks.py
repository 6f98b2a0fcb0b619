"""What is known of a file before anything is made of it: opcodes, nesting, sizes and checksums.

Each limit is far above what weights need, and far below what takes minutes or all memory.
"""

from __future__ import annotations

import io
import pickletools
import sys
import zipfile
from typing import Any

from lit_pursamere.weights.pickles.records import Refused

__all__ = ["check_opcodes", "check_zip", "is_legacy"]

LEGACY_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # the number that torch.save begins with

# Old-style instances, the registry of extensions, text identifiers and out-of-band buffers: no weight file has them.
REFUSED_OPCODES = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}
OPCODES_AT_MOST = 1_000_000
ITEMS_AT_MOST = 10_000  # of a tuple with the tuples inside: hashing walks them all, and deeper ones end the process
KEYS_AT_MOST = 10_000  # of dicts and sets, where they are tuples: their hashes can be made to collide
LARGE_AT_MOST = 1_000  # integers above the modulus of hashes: as keys, they can be made to collide
COPIES_AT_MOST = 4  # of the pickle, in the arguments of its calls
ROOM = 1 << 20
_SINGLE = [1, 0]  # size of whatever is neither a tuple, a list nor a text


def is_legacy(head: bytes) -> bool:
    """Tell a legacy archive from a plain pickle by its first 32 bytes, whatever the protocol of its pickles."""
    return LEGACY_MAGIC in head[:32]


def check_zip(file: Any) -> str:
    """Find out whether a zip archive is one of torch.save.

    Args:
        file: Path or open file.

    Returns:
        The archive's root, `archive/` or the like.

    Raises:
        Refused: If it is not, if its entries are larger than the file, or if two have one name.
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
    if len({name.lower() for name in names}) < len(names) or len(roots) > 1:
        raise Refused("two of its entries have one name")
    return roots[0]


def check_opcodes(stream: io.BytesIO) -> None:
    """Walk over one pickle without making anything, and leave the stream behind it.

    Raises:
        Refused: If it uses what no weight file has, or would take time or memory out of proportion.
        Exception: Whatever a damaged pickle provokes.
    """
    walk = _Walk()
    start = stream.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in REFUSED_OPCODES:
            raise Refused(f"it uses the opcode {opcode.name}, which no weight file has")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
            raise Refused("it reserves room for more objects than it has")
        if count >= OPCODES_AT_MOST:
            raise Refused(f"it has more than {OPCODES_AT_MOST} opcodes")
        walk.step(opcode, argument)
    if walk.passed > COPIES_AT_MOST * (stream.tell() - start) + ROOM:
        raise Refused("it passes the same content to functions again and again")


class _Walk:
    """The stack of an unpickler, with the size of each thing in its place: a list of its items and its characters."""

    def __init__(self) -> None:
        self.stack: list[list[int]] = []
        self.marks: list[int] = []
        self.memo: dict[int, list[int]] = {}
        self.passed = self.keys = self.large = 0

    def step(self, opcode: Any, argument: Any) -> None:
        name = opcode.name
        if name == "MARK":
            self.marks.append(len(self.stack))
        elif name.endswith("GET"):
            self.stack.append(self.memo[argument])
        elif name == "MEMOIZE" or name.endswith("PUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        elif not opcode.stack_before and opcode.stack_after:
            self.stack.append(self._made(name, argument, [], []))
        elif name == "POP" and self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            below, items = self._take(opcode.stack_before)
            self.stack.extend(self._made(name, argument, below, items) for _ in opcode.stack_after)

    def _take(self, wanted: list) -> tuple[list, list]:
        """Take what an opcode consumes: what stands below the mark, and what stands above it."""
        items: list = []
        if pickletools.markobject in wanted:
            start = self.marks.pop()
            items = self.stack[start:]
            del self.stack[start:]
            wanted = wanted[: wanted.index(pickletools.markobject)]
        start = len(self.stack) - len(wanted)
        if start < (self.marks[-1] if self.marks else 0):
            raise Refused("it takes more from its stack than is there")
        below = self.stack[start:]
        del self.stack[start:]
        return below, items

    def _made(self, name: str, argument: Any, below: list, items: list) -> list[int]:
        if name.startswith("TUPLE"):
            parts = below or items
            whole = [1 + sum(part[0] for part in parts), sum(part[1] for part in parts)]
            if whole[0] > ITEMS_AT_MOST:
                raise Refused(f"a tuple in it has more than {ITEMS_AT_MOST} items")
            return whole
        if name in ("SETITEM", "SETITEMS", "DICT", "ADDITEMS", "FROZENSET"):
            self._hash(below[1:2] if name == "SETITEM" else items[:: 1 if name in ("ADDITEMS", "FROZENSET") else 2])
        if name in ("APPEND", "APPENDS", "LIST", "FROZENSET"):
            whole = below[0] if below and below[0] is not _SINGLE else [1, 0]
            whole[0] += sum(part[0] for part in below[1:] + items)
            return whole
        if name == "REDUCE":
            self.passed += sum(below[1])
            return list(below[1])
        if below:
            return below[0]
        if type(argument) is int and abs(argument) >= sys.hash_info.modulus:
            self.large += 1
            if self.large > LARGE_AT_MOST:
                raise Refused(f"it has more than {LARGE_AT_MOST} integers above 2^61")
        if name == "EMPTY_LIST" or isinstance(argument, str | bytes | bytearray):
            return [1, len(argument or "")]
        return _SINGLE

    def _hash(self, keys: list) -> None:
        self.keys += sum(key[0] for key in keys if key[0] > 1)
        if self.keys > KEYS_AT_MOST:
            raise Refused(f"its dicts and sets have more than {KEYS_AT_MOST} tuples as keys")
