"""The state dict of a module that was saved as an object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_pursamere.weights.pickles.names import Record
from lit_pursamere.weights.pickles.tensors import Refused

__all__ = ["ModuleState", "states"]

MODULES_AT_MOST = 100_000
NAME_AT_MOST = 1_000  # characters; that of a part begins with those of all it is part of


class ModuleState(dict):
    """State dict of a module that was saved as an object, with the name of its class and its plain attributes."""

    def __init__(self, tensors: Mapping, kind: str, facts: Mapping[str, Any], snapshot: bool = False) -> None:
        super().__init__(tensors)
        self.kind, self.facts, self.snapshot = kind, dict(facts), snapshot


def states(content: Any) -> Any:
    """Put state dicts in the place of modules, where the content is one, or a dict of them.

    Raises:
        Refused: If a module does not hold together.
    """
    return {key: _state(value) for key, value in content.items()} if isinstance(content, dict) else _state(content)


def _state(value: Any) -> Any:
    if not _is_module(value):
        return value
    facts = {name: fact for name, fact in value.state.items() if not name.startswith("_") and name != "training"}
    return ModuleState(_tensors(value), value.origin.rpartition(".")[2], facts, value.snapshot)


def _is_module(value: Any) -> bool:
    state = value.state if isinstance(value, Record) else None
    return isinstance(state, dict) and all(isinstance(state.get(key), dict) for key in ("_parameters", "_modules"))


def _tensors(root: Record) -> dict[str, Tensor]:
    """Walk the modules in the order of `state_dict`: own tensors first, then the children."""
    tensors, waiting, seen = {}, [("", root)], 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1
        if seen > MODULES_AT_MOST or len(prefix) > NAME_AT_MOST:
            raise Refused(f"it holds more than {MODULES_AT_MOST} modules, or too many inside of one another")
        derived = module.state.get("_non_persistent_buffers_set") or ()
        buffers = {name: value for name, value in (module.state.get("_buffers") or {}).items() if name not in derived}
        for name, value in {**module.state["_parameters"], **buffers}.items():
            if value is not None and not isinstance(value, Tensor):
                raise Refused(f"its parameter {prefix}{name} is no plain tensor")
            if value is not None:
                tensors[f"{prefix}{name}"] = value
        children = [(f"{prefix}{n}.", child) for n, child in module.state["_modules"].items() if child is not None]
        if not all(_is_module(child) for _, child in children):
            raise Refused(f"a part of its module {prefix or root.origin} is no module")
        waiting.extend(reversed(children))
    return tensors
