"""The restricted unpickler: reads tensors, plain containers and records of objects, and runs nothing of the file.

for every name in the pickle:  allowed -> our own stand-in;  standard library -> refuse;
any other -> a class of inert records, which refuses to be called if its name is a function's
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from lit_pursamere.weights.pickles.checks import check_opcodes
from lit_pursamere.weights.pickles.records import (
    EDM_OBJECT,
    NeedsCode,
    PlainDict,
    Record,
    Refused,
    Sealed,
    TensorRecord,
    function,
    hashable,
    record_class,
)

__all__ = ["RestrictedUnpickler", "unpickle"]

PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip

# Names that may be called, or that belong to the standard library, and that are recorded all the same.
RECORDED = {
    *(f"builtins.{name}" for name in ("bool", "bytearray", "bytes", "complex", "dict", "float", "int", "list", "object",
                                      "range", "slice", "str", "tuple")),
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    "argparse.Namespace", "collections.deque", "functools.partial", "types.SimpleNamespace", "numpy.dtype",
    "numpy.ndarray", "torch.device", EDM_OBJECT,
}  # fmt: skip


def _rebuild(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None) -> TensorRecord:
    if metadata:
        raise Refused("a tensor in it is a conjugate or negative view; save what its `resolve_conj()` returns")
    return TensorRecord(storage, offset, size, stride)


def _rebuild_typed(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None) -> TensorRecord:
    tensor = _rebuild(storage, offset, size, stride, metadata=metadata)
    tensor.dtype = dtype if isinstance(dtype, torch.dtype) else tensor.dtype
    return tensor


def _not_dense(*_: Any) -> None:
    raise Refused("a tensor in it is sparse, quantized or without numbers; save it as a dense tensor")


def _set(kind: type, items: Any = ()) -> set | frozenset:
    return kind(hashable(items))


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


NOT_DENSE = ("sparse_tensor", "sparse_csr_tensor", "meta_tensor_no_storage", "qtensor", "nested_tensor",
             "device_tensor_from_numpy", "device_tensor_from_cpu_tensor", "wrapper_subclass")  # fmt: skip

BODIES: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _rebuild,
    "torch._utils._rebuild_tensor_v2": _rebuild,
    "torch._utils._rebuild_tensor_v3": _rebuild_typed,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": lambda data=None, *_: data,
    "torch.autograd.variable.Variable": lambda data=None, *_: data,
    "torch.Size": lambda sizes=(): tuple(sizes) if isinstance(sizes, list | tuple) else (),
    "torch.serialization._get_layout": _not_dense,
    **{f"torch._utils._rebuild_{kind}": _not_dense for kind in NOT_DENSE},
    "builtins.set": partial(_set, set),
    "builtins.frozenset": partial(_set, frozenset),
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
        objects: Whether other names than those of tensors and plain containers become records, or are refused.
    """

    def __init__(self, stream: io.BytesIO, storage: Callable, nested: Callable[[bytes], Any], objects: bool) -> None:
        super().__init__(stream, encoding="latin1")
        self._objects = objects
        self._storage = storage
        self._known = {"torch.storage._load_from_bytes": function("torch.storage._load_from_bytes", nested)}

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in of a name; nothing is imported."""
        module = PYTHON2.get(module, module)
        origin = f"{module}.{name}"
        if origin in ALLOWED:
            return ALLOWED[origin]
        recorded = origin in RECORDED or module.partition(".")[0] not in sys.stdlib_module_names
        if not (recorded and self._objects):
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


def unpickle(stream: io.BytesIO, storage: Callable, nested: Callable[[bytes], Any], objects: bool = True) -> Any:
    """Read one pickle, with records in place of objects, and leave the stream behind it.

    Args:
        stream: Stands at the first opcode.
        storage: See `RestrictedUnpickler`.
        nested: See `RestrictedUnpickler`.
        objects: See `RestrictedUnpickler`.

    Returns:
        Containers, numbers, text and records.

    Raises:
        Refused: If the pickle asks for what cannot be had without running it, or would take too much.
    """
    start = stream.tell()
    check_opcodes(stream)
    end = stream.tell()
    stream.seek(start)
    content = RestrictedUnpickler(stream, storage, nested, objects).load()
    stream.seek(end)
    return content
