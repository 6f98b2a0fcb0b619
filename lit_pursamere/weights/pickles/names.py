"""What the names in a pickle stand for: nothing is imported, and only the functions of this file are ever called.

allowed -> a function of ours;  standard library -> refused;
any other -> an inert record, but a function's name must not be called
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from lit_pursamere.weights.pickles.tensors import NeedsCode, Refused, tensor

__all__ = ["FUNCTIONS", "LOAD", "STORAGES", "Name", "Record", "call", "hashable", "name", "new_object"]

LARGEST_KEY = (1 << 61) - 2  # of integers: the hashes of larger ones can be made to collide
TUPLES_AT_MOST = 1_000  # entries of a dict or set with tuples as keys, which can be made to collide, too

LOAD = "torch.storage._load_from_bytes"
PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
DTYPES = {str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}
STORAGES = {
    f"{module}.{kind}Storage": dtype
    for module in ("torch", "torch.cuda", "torch.storage")
    for kind, dtype in {
        "Double": torch.float64, "Float": torch.float32, "Half": torch.float16, "BFloat16": torch.bfloat16,
        "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
        "Bool": torch.bool, "Untyped": torch.uint8, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128,
    }.items()
}  # fmt: skip

# Names that may be called, or that belong to the standard library, and that are recorded all the same.
RECORDED = {
    *(f"builtins.{name}" for name in ("bool", "bytearray", "bytes", "complex", "dict", "float", "int", "list", "object",
                                      "range", "slice", "str", "tuple")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "argparse.Namespace", "collections.deque", "functools.partial", "types.SimpleNamespace", "numpy.dtype",
    "numpy.ndarray", "torch.device",
}  # fmt: skip


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names."""

    origin: str


@dataclass(eq=False)
class Record:
    """What is left of an object: the name of its class, its state, and whether it is one of EDM's snapshots."""

    origin: str
    state: Any = None
    snapshot: bool = False


def hashable(keys: list, others: int = 0) -> list:
    """The keys of a dict or set that has other entries already; Refused where looking them up could take for ever."""
    for key in keys:
        if isinstance(key, tuple) and len(keys) + others > TUPLES_AT_MOST:
            raise Refused(f"a dict or set with tuples as keys has more than {TUPLES_AT_MOST} entries")
        for part in key if isinstance(key, tuple) else (key,):
            plain = isinstance(part, str | bytes | int | float | None | Name | Record | torch.dtype)
            if not plain or (isinstance(part, int) and abs(part) > LARGEST_KEY):
                raise Refused(f"it has a key that is no text or number of customary size ({type(part).__name__})")
    return keys


def new_object(kind: Any, *_: Any) -> Record:
    """An object that is made without a call of its class."""
    if not isinstance(kind, Name) or kind.origin in FUNCTIONS or kind.origin in STORAGES:
        raise Refused("it makes an object of something that is no class")
    return Record(kind.origin)


def _items(content: Any = ()) -> list:
    if not isinstance(content, list | tuple | set | frozenset | dict):
        raise Refused(f"it makes a container of a {type(content).__name__}")
    return list(content.items() if isinstance(content, dict) else content)


def _dict(content: Any = ()) -> dict:
    pairs = [(key, value) for key, value in _items(content)]
    return dict(zip(hashable([key for key, _ in pairs]), (value for _, value in pairs), strict=True))


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise NeedsCode("it calls _codecs.encode for more than bytes")
    return text.encode("latin1")


# Whatever makes a parameter of a tensor, and an archive within the file, which the machine then reads.
SAME = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
        "torch.nn.parameter.Parameter", "torch.autograd.variable.Variable", LOAD)  # fmt: skip

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(SAME, lambda data=None, *_: data),
    **dict.fromkeys(("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"), tensor),
    "torch._utils._rebuild_tensor_v3": lambda flat, *rest: tensor(flat.view(rest[5]), *rest[:5], *rest[6:]),
    "torch._tensor._rebuild_from_type_v2": lambda rebuild, kind, args, state: call(rebuild, args),
    "torch.Size": lambda *sizes: tuple(_items(*sizes)),
    **dict.fromkeys(("collections.OrderedDict", "collections.Counter"), _dict),
    "collections.defaultdict": lambda *_: {},
    "builtins.set": lambda *items: set(hashable(_items(*items))),
    "builtins.frozenset": lambda *items: frozenset(hashable(_items(*items))),
    "_codecs.encode": _encode,
    **dict.fromkeys(("copyreg._reconstructor", "copyreg.__newobj__"), new_object),
    # EDM's: the source of the class, which is in there as well, is not kept.
    "torch_utils.persistence._reconstruct_persistent_obj": lambda facts: Record(
        str(facts["class_name"]), facts["state"], snapshot=True
    ),
}
NOT_DENSE = ("torch._utils._rebuild_", "torch.serialization._get_layout")


def name(objects: bool, module: Any, attribute: Any) -> Name | torch.dtype:
    """What a name stands for; only with `objects` may it be another than those of tensors and plain containers."""
    if not (isinstance(module, str) and isinstance(attribute, str)):
        raise Refused("it names something by what is no text")
    module = PYTHON2.get(module, module)
    origin = f"{module}.{attribute}"
    if origin in DTYPES:
        return DTYPES[origin]
    foreign = origin in RECORDED or module.partition(".")[0] not in sys.stdlib_module_names
    if origin not in FUNCTIONS and origin not in STORAGES and not (foreign and objects):
        raise NeedsCode(f"it names {origin}")
    return Name(origin)


def call(kind: Any, args: Any) -> Any:
    """What the call of a name comes to: what a function of ours returns, or the record of an object."""
    if not (isinstance(kind, Name) and isinstance(args, tuple)):
        raise Refused("it calls something that has no name")
    if kind.origin in FUNCTIONS:
        return FUNCTIONS[kind.origin](*args)
    if kind.origin.startswith(NOT_DENSE):
        raise Refused("a tensor in it is sparse, quantized or without numbers; save it as a dense tensor")
    is_class = kind.origin.rpartition(".")[2].lstrip("_")[:1].isupper() and kind.origin not in STORAGES
    if not (is_class or kind.origin in RECORDED):
        raise NeedsCode(f"it calls {kind.origin}")
    return Record(kind.origin)
