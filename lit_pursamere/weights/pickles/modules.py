"""Turns records into tensors and state dicts: what the restricted reader hands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_pursamere.weights.pickles.records import Record, Refused, TensorRecord

__all__ = ["Builder", "ModuleState"]

MODULES_AT_MOST = 100_000
COPIES_AT_MOST = 1 << 28  # bytes: tied layers share their numbers, but not so many


class ModuleState(dict):
    """State dict of a module that was saved as an object, with the name of its class and its plain attributes."""

    def __init__(
        self, tensors: Mapping[str, Tensor], kind: str, facts: Mapping[str, Any], snapshot: bool = False
    ) -> None:
        super().__init__(tensors)
        self.kind, self.facts, self.snapshot = kind, dict(facts), snapshot


class Builder:
    """Turns records into what they record; what is shared in the file is built once.

    Args:
        size: Bytes of the file; tensors that take far more are copies of the same numbers.
    """

    def __init__(self, size: int) -> None:
        self._memo: dict[int, Any] = {}
        self._room = 2 * size + COPIES_AT_MOST

    def plain(self, value: Any) -> Any:
        """Tensors, state dicts of modules, and containers of those; objects that are no modules stay records.

        Raises:
            Refused: If a tensor or a module does not hold together.
        """
        if id(value) not in self._memo:
            self._memo[id(value)] = self._built(value)
        return self._memo[id(value)]

    def _built(self, value: Any) -> Any:
        if isinstance(value, TensorRecord):
            tensor = value.build()
            self._room -= tensor.numel() * tensor.itemsize
            if self._room < 0:
                raise Refused("it makes too many tensors of the same numbers")
            return tensor
        if isinstance(value, Record) and value.module is not None:
            facts = {k: v for k, v in value.module.items() if not k.startswith("_") and k != "training"}
            return ModuleState(self._tensors(value), value.kind, facts, value.snapshot is not None)
        if isinstance(value, dict):
            return {key: self.plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.plain(item) for item in value)
        return value

    def _tensors(self, root: Record) -> dict[str, Tensor]:
        """Walk the modules in the order of `state_dict`: own tensors first, then the children."""
        tensors, waiting, seen = {}, [("", root)], 0
        while waiting:
            prefix, record = waiting.pop()
            state, seen = record.module, seen + 1
            if seen > MODULES_AT_MOST:
                raise Refused(f"it holds more than {MODULES_AT_MOST} modules")
            derived = state.get("_non_persistent_buffers_set") or ()
            buffers = {name: value for name, value in (state.get("_buffers") or {}).items() if name not in derived}
            for name, value in {**state["_parameters"], **buffers}.items():
                if value is not None and not isinstance(value, TensorRecord):
                    raise Refused(f"its parameter {prefix}{name} is no plain tensor")
                if value is not None:
                    tensors[f"{prefix}{name}"] = self.plain(value)
            children = [(f"{prefix}{name}.", child) for name, child in state["_modules"].items() if child is not None]
            if not all(isinstance(child, Record) and child.module is not None for _, child in children):
                raise Refused(f"a part of its module {prefix or record.kind} is no module")
            waiting.extend(reversed(children))
        return tensors
