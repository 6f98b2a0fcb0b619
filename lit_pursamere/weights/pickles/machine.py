"""Goes through the opcodes of one pickle, a program for a machine with a stack; this machine makes data only.

for every opcode:  take what it needs from the stack;  put there what it makes
a name             is looked up in `names`, never imported
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from functools import partial
from typing import IO, Any

from torch import Tensor

from lit_pursamere.weights.pickles import names
from lit_pursamere.weights.pickles.names import Name, Record, hashable
from lit_pursamere.weights.pickles.tensors import Refused, Room

__all__ = ["Machine"]

OPCODES_AT_MOST = 1_000_000

# Those that bring their argument along: numbers and text.
LITERALS = {
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg and not opcode.stack_before and opcode.stack_after not in ([], [pickletools.anyobject])
}


def _fill(kind: type, target: Any, items: list) -> Any:
    """Put items into a list, set or dict; what an object holds is not needed."""
    if not isinstance(target, kind | Record):
        raise Refused(f"it puts items into a {type(target).__name__}")
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(hashable(items, len(target)))
    elif isinstance(target, dict):
        target.update(zip(hashable(items[::2], len(target)), items[1::2], strict=True))
    return target


def _build(target: Any, state: Any) -> Any:
    """Set the state of an object; attributes of tensors and dicts (a state dict's `_metadata`) are not needed."""
    if not isinstance(target, Record | Tensor | dict):
        raise Refused(f"it tries to change a {type(target).__name__.lower()}")
    if isinstance(target, Record):
        target.state = state
    return target


ACTIONS: dict[str, Callable[..., Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "LIST": list,
    "TUPLE": tuple,
    **{f"TUPLE{n}": lambda *items: items for n in (1, 2, 3)},
    "DICT": lambda items: _fill(dict, {}, items),
    "FROZENSET": lambda items: frozenset(hashable(items)),
    "APPEND": lambda target, item: _fill(list, target, [item]),
    "APPENDS": partial(_fill, list),
    "SETITEM": lambda target, *items: _fill(dict, target, list(items)),
    "SETITEMS": partial(_fill, dict),
    "ADDITEMS": partial(_fill, set),
    "BUILD": _build,
    "NEWOBJ": names.new_object,
    "NEWOBJ_EX": names.new_object,
}


class Machine:
    """Reads pickles.

    Args:
        room: What they may still make.
        objects: See `names.name`.
        storage: Finds a storage from its type, key, place and count, and maybe its part of another one.
        nested: Reads the archive in the argument of `torch.storage._load_from_bytes`.
    """

    def __init__(self, room: Room, objects: bool, storage: Callable, nested: Callable[[Any], Any]) -> None:
        self._room, self._storage, self._nested = room, storage, nested
        self._name = partial(names.name, objects)
        self._actions = ACTIONS | {"REDUCE": self._call, "STACK_GLOBAL": self._name, "BINPERSID": self._outside}

    def read(self, stream: IO[bytes]) -> Any:
        """Read one pickle into containers, numbers, text, tensors and records; leave the stream behind it."""
        self._stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == OPCODES_AT_MOST:
                raise Refused(f"it has more than {OPCODES_AT_MOST} opcodes")
            self._step(opcode, argument)
        return self._stack.pop()

    def _step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        name, stack = opcode.name, self._stack
        if name in LITERALS:
            stack.append(argument)
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name == "MARK":
            self._marked.append(stack)
            self._stack = []
        elif name == "POP_MARK" or (name == "POP" and not stack):
            self._stack = self._marked.pop()
        elif name == "POP":
            stack.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "GLOBAL":
            stack.append(self._name(*argument.split(" ", 1)))
        elif name in self._actions:
            made = self._actions[name](*self._take(opcode.stack_before))
            self._stack.append(made)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Refused(f"it uses the opcode {name}, which no weight file has")

    def _take(self, wanted: list) -> list[Any]:
        """Take what an opcode needs from the stack; all that stands above a mark is one list."""
        taken: list[Any] = []
        if pickletools.markobject in wanted:
            taken, self._stack = [self._stack], self._marked.pop()
            wanted = wanted[: wanted.index(pickletools.markobject)]
        for _ in wanted:
            taken.insert(0, self._stack.pop())
        return taken

    def _call(self, kind: Any, args: Any) -> Any:
        made = names.call(kind, args)
        for value in (*args, made):
            self._room.take(value)
        return self._nested(made) if kind == Name(names.LOAD) else made

    def _outside(self, identifier: Any) -> Any:
        """The storage that a persistent identifier names; of an old module's source only its class is kept."""
        what, kind, key, *where = identifier if isinstance(identifier, tuple) else (None, None, None)
        if what == "module":
            return kind
        if what != "storage" or not isinstance(kind, Name) or kind.origin not in names.STORAGES or type(key) is not str:
            raise Refused("it refers to something outside that is no storage")
        return self._storage(names.STORAGES[kind.origin], key, *where)
