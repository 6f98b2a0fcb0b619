"""What the restricted reader makes of a pickle: records of storages, tensors and objects. None of them runs anything.

A pickle is a little program: it names classes and functions, calls them, and sets the state of what they return. Here
every name stands for one of the classes below, so all that such a program can do is to fill records.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "NeedsCode",
    "PlainDict",
    "Record",
    "Refused",
    "Sealed",
    "StorageRecord",
    "TensorRecord",
    "function",
    "hashable",
    "record_class",
]

EDM_OBJECT = "torch_utils.persistence._reconstruct_persistent_obj"
TUPLES_AT_MOST = 1_000  # as keys: their hashes can be made to collide
DIMENSIONS_AT_MOST = 64  # torch computes with no more


class Refused(pickle.UnpicklingError):
    """The file is not what it should be, or asks for what no weight file asks for."""


class NeedsCode(Refused):
    """The file can be read in full only by running what it names."""


class Sealed(type):
    """Class of the stand-ins: a pickle may fill their instances, but neither change nor, unless allowed, call them.

    An honest pickle makes an object with the opcode NEWOBJ, which does not come by here; a call that comes by is
    that of a function, or of a class that rebuilds its objects by a call.
    """

    origin: str
    may_be_called: bool

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if not cls.may_be_called:
            raise NeedsCode(f"it calls {cls.origin}")
        return super().__call__(*args, **kwargs)

    def __setattr__(cls, name: str, value: object) -> None:
        raise Refused(f"it tries to change {cls.origin}")


def hashable(keys: Any) -> Any:
    """The same keys of a dict or set; Refused if too many of them are tuples or sets."""
    if sum(isinstance(key, tuple | frozenset) for key in keys) > TUPLES_AT_MOST:
        raise Refused(f"its dicts and sets have more than {TUPLES_AT_MOST} tuples as keys")
    return keys


class PlainDict(dict, metaclass=Sealed):
    """Stands for OrderedDict and its like: a dict whose attributes a pickle cannot set."""

    __slots__ = ()
    origin, may_be_called = "collections.OrderedDict", True

    def __init__(self, content: Any = ()) -> None:
        super().__init__(content if isinstance(content, dict) else _pairs(content))

    def __setstate__(self, state: object) -> None:
        """Attributes of a dict (a state dict's `_metadata`) are not needed."""


def _pairs(content: Any) -> list:
    pairs = [(key, value) for key, value in content]
    hashable([key for key, _ in pairs])
    return pairs


class Record(metaclass=Sealed):
    """What is left of an object: the name of its class, its arguments, its state and its items."""

    __slots__ = ("args", "items", "state")
    origin, may_be_called = "?", True
    args: tuple[Any, ...]
    state: Any
    items: dict[Any, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        record = object.__new__(cls)
        record.args, record.state, record.items = args, None, {}
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        self.items[key] = value

    def append(self, value: object) -> None:
        self.items[len(self.items)] = value

    @property
    def snapshot(self) -> Mapping[str, Any] | None:
        """What EDM writes in place of an object: its class's name and source (which is never run), and its state."""
        return self.args[0] if self.origin == EDM_OBJECT and self.args and isinstance(self.args[0], dict) else None

    @property
    def module(self) -> Mapping[str, Any] | None:
        """The attributes of an nn.Module; None if this is another object."""
        state = self.state if self.snapshot is None else self.snapshot.get("state")
        known = isinstance(state, dict) and all(isinstance(state.get(k), dict) for k in ("_parameters", "_modules"))
        return state if known else None

    @property
    def kind(self) -> str:
        return self.origin.rpartition(".")[2] if self.snapshot is None else str(self.snapshot.get("class_name"))


def record_class(origin: str, may_be_called: bool) -> Sealed:
    """A class of records for the class or function of that name."""
    return Sealed("Record", (Record,), {"__slots__": (), "origin": origin, "may_be_called": may_be_called})


def function(origin: str, body: Callable[..., Any]) -> Sealed:
    """A stand-in that, when the pickle calls it, runs `body` instead of what it names."""
    call = staticmethod(lambda cls, *args, **kwargs: body(*args, **kwargs))
    return Sealed("Function", (), {"__new__": call, "__slots__": (), "origin": origin, "may_be_called": True})


class StorageRecord:
    """Numbers of one type in a row; `data` follows later where the file keeps them behind the objects."""

    __slots__ = ("count", "data", "dtype", "root", "start")

    def __init__(self, dtype: torch.dtype, count: int, data: memoryview | None = None) -> None:
        if type(count) is not int or count < 0:
            raise Refused(f"a storage has {count!r} elements")
        self.dtype, self.count, self.data = dtype, count, data
        self.root, self.start = self, 0

    def __setstate__(self, state: object) -> None:
        raise Refused("it tries to change a storage")

    def view(self, start: int, count: int) -> StorageRecord:
        part = StorageRecord(self.dtype, count)
        part.root, part.start = self, start
        return part

    def numbers(self) -> memoryview:
        """The bytes, which may have come after the tensors that need them."""
        size, whole = self.dtype.itemsize, self.root.data
        if whole is None or self.start < 0:
            raise Refused("the numbers of a storage are missing")
        return whole[self.start * size : (self.start + self.count) * size]


class TensorRecord:
    """A tensor as the file describes it."""

    __slots__ = ("dtype", "offset", "size", "storage", "stride")

    def __init__(
        self, storage: StorageRecord, offset: int, size: tuple, stride: tuple, dtype: torch.dtype | None = None
    ) -> None:
        if not isinstance(storage, StorageRecord):
            raise Refused(f"a tensor is built on a {type(storage).__name__}")
        if max(len(size), len(stride)) > DIMENSIONS_AT_MOST:
            raise Refused(f"a tensor has {len(size)} dimensions")
        self.storage, self.offset, self.size, self.stride = storage, offset, tuple(size), tuple(stride)
        self.dtype = dtype or storage.dtype

    def __setstate__(self, state: object) -> None:
        """Whether gradients were wanted does not matter here."""

    def build(self) -> Tensor:
        """The tensor, on memory of its own."""
        numbers, itemsize = self.storage.numbers(), self.dtype.itemsize
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True))
        count, room = math.prod(self.size), len(numbers) // itemsize
        if min((0, self.offset, *self.size, *self.stride)) < 0 or count > room or (count and last >= room):
            raise Refused("a tensor reaches beyond its storage")
        if count == 0:
            return torch.empty(self.size, dtype=self.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the numbers cannot be written to; they are copied
            flat = torch.frombuffer(numbers, dtype=self.dtype, count=room)
        return flat.as_strided(self.size, self.stride, self.offset).clone(memory_format=torch.contiguous_format)
