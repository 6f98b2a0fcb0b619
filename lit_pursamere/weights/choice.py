"""Which of several networks in a file is meant: the raw weights, their average, or the one that is named.

Averages are known by their names (`ema_model`, `state_dict_ema`, `averaged` ...).
Where that leaves more than one network, and they are not the same numbers, the file is a question to whoever loads it:
never its order or the length of names.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping

import torch
from torch import Tensor

from lit_pursamere.weights.files import some

__all__ = ["choose", "clean_names", "is_average", "is_twin", "split"]

Tensors = Mapping[str, Tensor]

AVERAGES_AT_MOST = 16  # in one state dict
AVERAGE = re.compile(r"(^|[._])(ema|avg|average|averaged|swa|shadow)([._]|$)")


def is_average(name: str, others: Container[str] = ()) -> bool:
    """Whether the name of a set says that it is an average, if only because another one says that it is not."""
    return AVERAGE.search(name) is not None or f"unaveraged_{name}" in others


def is_twin(a: Tensors, b: Tensors) -> bool:
    """Whether two sets are of one network: the same names and shapes."""
    x, y = clean_names(a), clean_names(b)
    return x.keys() == y.keys() and all(x[name].shape == y[name].shape for name in x)


def choose(sets: Mapping[str, Tensors], weights: str) -> tuple[str, str]:
    """Choose one of the sets of weights that a file holds.

    Args:
        sets: Tensors by name, by the name of their set; at least one.
        weights: `ema`, `raw`, or the name of a set.

    Returns:
        The name of the set, and what it is: `ema`, `raw`, `only one`, or its own name if that was asked for.

    Raises:
        ValueError: If there is no such set, or more than one; the message continues "FILE ...".
    """
    if weights in sets:
        return weights, weights
    if weights not in ("ema", "raw"):
        raise ValueError(f"holds no weights called {weights!r}; give ema, raw, or one of {some([*sets], 5)}")
    averages = [name for name in sets if is_average(name, sets)]
    others = [name for name in sets if name not in averages]
    wanted = averages or others if weights == "ema" else others
    if not wanted:
        raise ValueError(f"holds EMA weights only (under `{some(averages)}`); use weights: ema")
    if not all(_same(sets[wanted[0]], sets[name]) for name in wanted[1:]):
        raise ValueError(f"holds several networks: {some(wanted, 5)}; say which by weights: {some(wanted[:1])}")
    return wanted[0], weights if averages else "only one"


def split(tensors: Tensors) -> dict[str, dict[str, Tensor]]:
    """The average and the raw weights of one state dict, where they stand there side by side as parts of one module.

    Args:
        tensors: By the names that the file gives them.

    Returns:
        Sets by the names of those parts, their tensors by their whole names; nothing where there are no two of them.
    """
    averages: dict[str, dict[str, Tensor]] = {}
    raw: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")[:-1]
        place = next((n for n, part in enumerate(parts, 1) if AVERAGE.search(part)), None)
        (raw if place is None else averages.setdefault(".".join(parts[:place]), {}))[name] = tensor
    found: dict[str, dict[str, Tensor]] = {}
    for part, held in averages.items() if len(averages) <= AVERAGES_AT_MOST else ():
        # Without the counters that an average may have of its own.
        inner = clean_names({name.removeprefix(f"{part}."): t for name, t in held.items() if t.numel() > 1})
        twin = _prefix(list(inner), raw)
        if twin is not None:
            found |= {part: held, twin.rstrip(".") or "raw": {n: t for n, t in raw.items() if n.startswith(twin)}}
    return found


def clean_names(tensors: Tensors) -> dict[str, Tensor]:
    """Strip the prefixes `module.` and `model.` where every name has them."""
    cleaned = dict(tensors)
    while prefix := next((p for p in ("module.", "model.") if cleaned and all(n.startswith(p) for n in cleaned)), None):
        cleaned = {name.removeprefix(prefix): tensor for name, tensor in cleaned.items()}
    return cleaned


def _prefix(names: list[str], tensors: Tensors) -> str | None:
    """The prefix under which all these names stand."""
    if not names:
        return None
    prefixes = [name.removesuffix(names[0]) for name in tensors if f".{name}".endswith(f".{names[0]}")]
    return next((prefix for prefix in prefixes if all(prefix + name in tensors for name in names)), None)


def _same(a: Tensors, b: Tensors) -> bool:
    x, y = clean_names(a), clean_names(b)
    return is_twin(a, b) and all(torch.equal(x[name], y[name]) for name in x)
