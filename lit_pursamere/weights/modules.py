"""Turns records into tensors and state dicts: what the restricted reader hands on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_pursamere.weights.records import Record, Refused, TensorRecord

__all__ = ["ModuleState", "plain"]

MODULES_AT_MOST = 100_000


class ModuleState(dict):
    """State dict of a module that was saved as an object, with the name of its class and its plain attributes."""

    def __init__(
        self, tensors: Mapping[str, Tensor], kind: str, facts: Mapping[str, Any], snapshot: bool = False
    ) -> None:
        super().__init__(tensors)
        self.kind, self.facts, self.snapshot = kind, dict(facts), snapshot


def plain(value: Any, memo: dict[int, Any] | None = None) -> Any:
    """Turn records into what they record: tensors, state dicts of modules, and containers of those.

    Args:
        value: What the restricted unpickler returned.
        memo: Results by identity, so that what is shared in the file is built once.

    Returns:
        The same structure; objects that are no modules stay records.

    Raises:
        Refused: If a tensor or a module does not hold together.
    """
    memo = {} if memo is None else memo
    if id(value) in memo:
        return memo[id(value)]
    result = value
    if isinstance(value, TensorRecord):
        result = value.build()
    elif isinstance(value, Record) and value.module is not None:
        facts = {k: v for k, v in value.module.items() if not k.startswith("_") and k != "training"}
        result = ModuleState(_module_tensors(value, memo), value.kind, facts, value.snapshot is not None)
    elif isinstance(value, dict):
        result = {key: plain(item, memo) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        result = type(value)(plain(item, memo) for item in value)
    memo[id(value)] = result
    return result


def _module_tensors(root: Record, memo: dict[int, Any]) -> dict[str, Tensor]:
    """Walk the modules in the order of `state_dict`: own tensors first, then the children."""
    tensors, waiting, seen = {}, [("", root)], 0
    while waiting:
        prefix, record = waiting.pop()
        state: Any = record.module
        seen += 1
        if seen > MODULES_AT_MOST:
            raise Refused(f"it holds more than {MODULES_AT_MOST} modules")
        derived = state.get("_non_persistent_buffers_set") or ()
        buffers = {name: value for name, value in (state.get("_buffers") or {}).items() if name not in derived}
        for name, value in {**state["_parameters"], **buffers}.items():
            if value is not None and not isinstance(value, TensorRecord):
                raise Refused(f"its parameter {prefix}{name} is no plain tensor")
            if value is not None:
                tensors[f"{prefix}{name}"] = plain(value, memo)
        children = [(f"{prefix}{name}.", child) for name, child in state["_modules"].items() if child is not None]
        if not all(isinstance(child, Record) and child.module is not None for _, child in children):
            raise Refused(f"a part of its module {prefix or record.kind} is no module")
        waiting.extend(reversed(children))
    return tensors
