"""Finds the tensors in what a weight file holds, whoever wrote it.

list                                  official NCSNv2:  [weights, optimizer, epoch, step, EMA]
{model, ema: {shadow_params}, ...}    score_sde; the EMA is a list in the order of the parameters of `model`
{state_dict, current_model_state}     Lightning; under weight averaging `state_dict` is the average
{state_dict | net | model | ...}      classifiers; the value may be a module that was saved as an object (as in EDM)
{name: tensor}                        a plain state dict
{name: (weight, bias)}                layers by their numbers, as ports of Keras models are saved
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lit_pursamere.networks.ddpm_unet import OLD_ATTENTION_NAMES
from lit_pursamere.weights.choice import choose, is_average, is_twin, split
from lit_pursamere.weights.files import printable
from lit_pursamere.weights.pickles import ModuleState
from lit_pursamere.weights.settings import is_normaliser, normalisation

__all__ = ["IGNORABLE", "Selection", "select"]

# Entries that follow from the configuration, which public checkpoints carry or leave out as they like.
IGNORABLE = ("sigmas", "num_batches_tracked", "resample_filter")

RAW_KEYS = ("unaveraged_model_state_dict", "state_dict", "model_state_dict", "net", "model", "best_model", "network",
            "model_state", "params", "weights")  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """One set of weights out of a file.

    Args:
        layout: How the file is laid out, in words.
        which: `ema`, `raw`, `only one`, or the name that was asked for.
        tensors: Tensors by the names that the file gives them.
        metadata: Step, epoch, decay and the like.
    """

    layout: str
    which: str
    tensors: Mapping[str, Tensor]
    metadata: dict[str, str]


def select(content: Any, weights: str = "ema") -> Selection:
    """Recognise the layout and take one set of weights.

    Args:
        content: What the file holds.
        weights: `ema` or `raw`, or the name of an entry or a part; a file that holds one set only gives that one.

    Returns:
        The set.

    Raises:
        ValueError: If there are no tensors by name, or not the wanted set; the message continues "FILE ...".
    """
    is_list = isinstance(content, list) and content and isinstance(content[0], Mapping)
    ema = content.get("ema") if isinstance(content, Mapping) else None
    if is_list or (isinstance(ema, Mapping) and "shadow_params" in ema):
        if weights not in ("ema", "raw"):
            raise ValueError(f"holds no weights called {weights!r}; use weights: ema or raw")
        found = (_ncsnv2 if is_list else _score_sde)(content, weights)
    elif not isinstance(content, Mapping):
        found = Selection("", "", {}, {})
    else:
        found = _part(_container(content, weights), weights)
    tensors, renamed = _modern_names(found.tensors)
    if not tensors:
        raise ValueError(f"holds no tensors by name: its content is a {type(content).__name__}")
    layout = printable(found.layout) + (", old attention names" if renamed else "")
    return Selection(layout, found.which, tensors, found.metadata | normalisation(tensors))


def _ncsnv2(content: list, weights: str) -> Selection:
    if weights == "ema" and len(content) < 5:
        raise ValueError(f"holds no EMA weights (its list has {len(content)} entries); use weights: raw")
    entry = content[4] if weights == "ema" else content[0]
    facts = {name: str(value) for name, value in zip(("epoch", "step"), content[2:4], strict=False)}
    return Selection(f"NCSNv2 checkpoint, {_word(weights)}", weights, _by_name(entry), facts)


def _score_sde(content: Mapping, weights: str) -> Selection:
    named, ema = _by_name(content.get("model")), content["ema"]
    facts = _facts(content) | {f"ema {name}": value for name, value in _facts(ema).items()}
    if weights == "ema":
        shadow = ema["shadow_params"]
        if not isinstance(shadow, list | tuple) or not shadow:
            raise ValueError("holds no EMA weights (its list of them is empty); use weights: raw")
        order = {n.removeprefix("module."): t for n, t in named.items() if not n.endswith(IGNORABLE)}
        if len(order) != len(shadow):
            raise ValueError(
                f"has {len(shadow)} EMA weights without names and {len(order)} parameters in its entry `model` to name "
                "them by; it is not a checkpoint of score_sde as released"
            )
        for (name, parameter), average in zip(order.items(), shadow, strict=True):
            if getattr(average, "shape", None) != parameter.shape:
                raise ValueError(
                    f"has EMA weights that do not fit its entry `model`: {name} is {tuple(parameter.shape)} there and "
                    f"{tuple(getattr(average, 'shape', ()))} in the average"
                )
        named = {name: average.detach() for name, average in zip(order, shadow, strict=True)}
    return Selection(f"score_sde checkpoint, {_word(weights)}", weights, named, facts)


def _container(content: Mapping, weights: str) -> Selection:
    """A checkpoint with its weights under one of the customary keys, or a plain state dict."""
    if "current_model_state" in content:  # Lightning's weight averaging
        which = "raw" if weights == "raw" else "ema"
        tensors = _by_name(content["current_model_state"] if which == "raw" else content.get("state_dict"))
        return Selection(f"Lightning checkpoint, {_word(which)}", which, tensors, _facts(content) | _card(content))
    sets = {key: inner for key, value in content.items() if isinstance(key, str) and (inner := _inner(value))}
    known = {key: sets[key] for key in sets if key in (*RAW_KEYS, weights) or is_average(key, sets)}
    if not known and (not sets or _by_name(content)):
        layout = f"module object ({content.kind})" if isinstance(content, ModuleState) else "plain state dict"
        return Selection(layout, "only one", _by_name(content), _object_facts(content))
    known |= {key: inner for key, inner in sets.items() if any(is_twin(inner, one) for one in known.values())}
    # Where the name is none of an entry, it may be that of a part of the entry.
    asked = weights if weights in {"ema", "raw", *sets} else "ema"
    key, which = choose(known or sets, asked)
    told = f", {_word(which)}" if which in ("ema", "raw") else ""
    facts = _facts(content) | _card(content) | _object_facts(content[key])
    return Selection(_layout(content, key, content[key]) + told, which, sets[key], facts)


def _part(found: Selection, weights: str) -> Selection:
    """One of several networks that are parts of one state dict, with the normalisation that goes with them all."""
    sets = split(found.tensors)
    if weights not in ("ema", "raw", found.which):
        sets = {weights: {name: tensor for name, tensor in found.tensors.items() if name.startswith(f"{weights}.")}}
        if not sets[weights]:
            parts = ", ".join(dict.fromkeys(printable(name.partition(".")[0]) for name in list(found.tensors)[:100]))
            raise ValueError(f"holds no weights called {weights!r}: give ema, raw, or how their names begin ({parts})")
    if not sets:
        return found
    part, which = choose(sets, weights)
    tensors = {n: t for n, t in found.tensors.items() if n in sets[part] or is_normaliser(n)}
    return Selection(f"{found.layout}, {_word(which, part)}", which, tensors, found.metadata)


def _layout(content: Mapping, key: str, inner: Any) -> str:
    if "pytorch-lightning_version" in content:
        return "Lightning checkpoint"
    if isinstance(inner, ModuleState):
        return f"EDM snapshot ({inner.kind})" if inner.snapshot else f"module object under `{key}` ({inner.kind})"
    return f"checkpoint, weights under `{key}`"


def _inner(value: Any) -> dict[str, Tensor]:
    """Tensors of a container's entry, which may once more hold a state dict."""
    own = _by_name(value)
    deeper = value.get("state_dict") if isinstance(value, Mapping) and not own else None
    return own or _by_name(deeper)


def _by_name(value: Any) -> dict[str, Tensor]:
    named = value.items() if isinstance(value, Mapping) else ()
    if named and all(isinstance(name, str) and is_layer(layer) for name, layer in named):
        return {
            f"{n}.{part}": t.detach() for n, both in named for part, t in zip(("weight", "bias"), both, strict=True)
        }
    return {name: t.detach() for name, t in named if isinstance(name, str) and isinstance(t, Tensor)}


def is_layer(value: Any) -> bool:
    """Whether it is a weight and a bias."""
    return isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(part, Tensor) for part in value)


def _facts(content: Any) -> dict[str, str]:
    """The plain numbers and short texts of a mapping: step, epoch, decay, accuracy."""
    named = content.items() if isinstance(content, Mapping) else ()
    plain = {str(k): v for k, v in named if isinstance(v, bool | int | float) or (isinstance(v, str) and len(v) <= 80)}
    return {name: str(value) for name, value in plain.items()}


def _object_facts(value: Any) -> dict[str, str]:
    """The plain attributes of a module that was saved as an object; of EDM's, which of its preconditionings it is."""
    if not isinstance(value, ModuleState):
        return {}
    known = value.snapshot and value.kind.endswith("Precond")
    return _facts(value.facts) | ({"preconditioning": value.kind.removesuffix("Precond").lower()} if known else {})


def _card(content: Mapping) -> dict[str, str]:
    """The card that our own checkpoints carry, whose texts may be long."""
    card = content.get("card")
    named = card.items() if isinstance(card, Mapping) else ()
    return {name: value for name, value in named if isinstance(name, str) and isinstance(value, str)}


def _word(weights: str, part: str = "") -> str:
    return {"ema": "EMA", "raw": "raw"}.get(weights, f"part {part}")


def _modern_names(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], bool]:
    """Give diffusers' old attention layers their present names; an attention layer is known by its group_norm."""
    old = [name for name in tensors if name.endswith(".proj_attn.weight")]
    layers = {name.removesuffix("proj_attn.weight") for name in old}
    layers = {
        p for p in layers if all(f"{p}{part}.weight" in tensors for part in ("group_norm", "query", "key", "value"))
    }
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, rest = name.rpartition(".")
        parent, _, part = layer.rpartition(".")
        known = f"{parent}." in layers and part in OLD_ATTENTION_NAMES
        renamed[f"{parent}.{OLD_ATTENTION_NAMES[part]}.{rest}" if known else name] = tensor
    return renamed, bool(layers)
