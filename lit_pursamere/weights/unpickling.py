"""The restricted unpickler: reads tensors, plain containers and records of objects, and runs nothing of the file.

check the opcodes;  for every name in the pickle:  allowed -> our own stand-in;  standard library -> refuse;
any other -> a class of inert records, which refuses to be called if its name is a function's
"""

from __future__ import annotations

import io
import pickle
import pickletools
import sys
from collections.abc import Callable
from typing import Any

import torch

from lit_pursamere.weights.records import (
    EDM_OBJECT,
    NeedsCode,
    PlainDict,
    Record,
    Refused,
    Sealed,
    TensorRecord,
    function,
    record_class,
)

__all__ = ["RestrictedUnpickler", "unpickle"]

# Old-style instances, the registry of extensions, text identifiers and out-of-band buffers: no weight file has them.
REFUSED_OPCODES = {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"}

PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}  # fmt: skip

# Names that may be called, or that belong to the standard library, and that are recorded all the same.
RECORDED = {
    *(f"builtins.{name}" for name in ("bool", "bytes", "complex", "dict", "float", "int", "list", "object", "range",
                                      "slice", "str", "tuple")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "argparse.Namespace", "collections.deque", "functools.partial", "types.SimpleNamespace", "numpy.dtype",
    "numpy.ndarray", "torch.device", EDM_OBJECT,
}  # fmt: skip


def _rebuild_typed(
    storage: Any, offset: int, size: tuple, stride: tuple, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> TensorRecord:
    return TensorRecord(storage, offset, size, stride, dtype if isinstance(dtype, torch.dtype) else None)


def _new_object(kind: Any, *_: Any) -> Record:
    if not (isinstance(kind, Sealed) and issubclass(kind, Record)):
        raise Refused("it makes an object of something that is no class")
    return kind.__new__(kind)


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise NeedsCode(f"it calls _codecs.encode with {encoding!r}")
    return text.encode("latin1")


def _from_type(rebuild: Any, kind: Any, args: tuple, state: Any) -> TensorRecord:
    if rebuild not in [ALLOWED[f"torch._utils.{name}"] for name in ("_rebuild_tensor_v2", "_rebuild_tensor_v3")]:
        raise NeedsCode(f"it calls {getattr(rebuild, 'origin', rebuild)} to rebuild a tensor")
    return rebuild(*args)


class EmptyDict(PlainDict):
    """Stands for defaultdict: its first argument is no content."""

    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        super().__init__()


BODIES: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": lambda storage, offset, size, stride: TensorRecord(storage, offset, size, stride),
    "torch._utils._rebuild_tensor_v2": lambda storage, offset, size, stride, *_: TensorRecord(
        storage, offset, size, stride
    ),
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": lambda data=None, *_: data,
    "torch.autograd.variable.Variable": lambda data=None, *_: data,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "_codecs.encode": _encode,
    "copyreg._reconstructor": _new_object,
    "copyreg.__newobj__": _new_object,
}

STORAGE_CLASSES = {
    Sealed(name, (), {"origin": f"{module}.{name}", "may_be_called": False, "dtype": dtype})
    for module in ("torch", "torch.cuda", "torch.storage")
    for name, dtype in STORAGES.items()
}

ALLOWED: dict[str, Any] = {
    "collections.OrderedDict": PlainDict,
    "collections.Counter": PlainDict,
    "collections.defaultdict": EmptyDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    **{origin: function(origin, body) for origin, body in BODIES.items()},
    **{str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)},
    **{kind.origin: kind for kind in STORAGE_CLASSES},
}


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler to which every global name is data.

    Args:
        stream: The pickle.
        storage: Finds a storage from what follows the word `storage` in a persistent identifier.
        nested: Reads the archive inside `torch.storage._load_from_bytes`.
    """

    def __init__(self, stream: io.BytesIO, storage: Callable, nested: Callable[[bytes], Any]) -> None:
        super().__init__(stream, encoding="latin1")
        self._storage = storage
        self._known = {"torch.storage._load_from_bytes": function("torch.storage._load_from_bytes", nested)}

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name; nothing is imported."""
        module = PYTHON2.get(module, module)
        origin = f"{module}.{name}"
        if origin in ALLOWED:
            return ALLOWED[origin]
        if module.partition(".")[0] in sys.stdlib_module_names and origin not in RECORDED:
            raise NeedsCode(f"it names {origin}")
        if origin not in self._known:
            is_class = name.rpartition(".")[2].lstrip("_")[:1].isupper()
            self._known[origin] = record_class(origin, may_be_called=is_class or origin in RECORDED)
        return self._known[origin]

    def persistent_load(self, pid: Any) -> Any:
        """Return the storage that an identifier names; of an old module's source only its class is kept."""
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]
        if not (isinstance(pid, tuple) and len(pid) > 4 and pid[0] == "storage" and pid[1] in STORAGE_CLASSES):
            raise Refused("it refers to something outside that is no storage")
        return self._storage(*pid[1:])


def unpickle(stream: io.BytesIO, storage: Callable, nested: Callable[[bytes], Any]) -> Any:
    """Read one pickle, with records in place of objects, and leave the stream behind it.

    Args:
        stream: Stands at the first opcode.
        storage: See `RestrictedUnpickler`.
        nested: See `RestrictedUnpickler`.

    Returns:
        Containers, numbers, text and records.

    Raises:
        Refused: If the pickle asks for what cannot be had without running it.
    """
    start = stream.tell()
    _check_opcodes(stream)
    end = stream.tell()
    stream.seek(start)
    content = RestrictedUnpickler(stream, storage, nested).load()
    stream.seek(end)
    return content


def _check_opcodes(stream: io.BytesIO) -> None:
    """Run over the opcodes once; a memo number far above their count would make the unpickler reserve that room."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in REFUSED_OPCODES:
            raise Refused(f"it uses the opcode {opcode.name}, which no weight file has")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise Refused("it reserves room for more objects than it has")
