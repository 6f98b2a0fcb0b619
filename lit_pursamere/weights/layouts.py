"""Finds the tensors in what a weight file holds, whoever wrote it.

list                                  official NCSNv2:  [weights, optimizer, epoch, step, EMA]
{model, ema: {shadow_params}, ...}    score_sde; the EMA is a list in the order of the parameters of `model`
{state_dict, current_model_state}     Lightning; under weight averaging `state_dict` is the average
{state_dict | net | model | ...}      classifiers; the value may be a module that was saved as an object (as in EDM)
{name: tensor}                        a plain state dict
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lit_pursamere.networks.ddpm_unet import OLD_ATTENTION_NAMES
from lit_pursamere.weights.files import printable
from lit_pursamere.weights.pickles import ModuleState

__all__ = ["IGNORABLE", "Selection", "clean_names", "select"]

# Entries that follow from the configuration, which public checkpoints carry or leave out as they like.
IGNORABLE = ("sigmas", "num_batches_tracked", "resample_filter")

RAW_KEYS = ("unaveraged_model_state_dict", "state_dict", "model_state_dict", "net", "model", "best_model", "network",
            "model_state", "params", "weights")  # fmt: skip
EMA_KEYS = ("ema", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "params_ema")


@dataclass(frozen=True)
class Selection:
    """One set of weights out of a file.

    Args:
        layout: How the file is laid out, in words.
        which: `ema`, `raw`, or `only one`.
        tensors: Tensors by the names that the file gives them.
        metadata: Step, epoch, decay and the like.
    """

    layout: str
    which: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def select(content: Any, weights: str = "ema") -> Selection:
    """Recognise the layout and take one set of weights.

    Args:
        content: What the file holds.
        weights: `ema` or `raw`; a file that holds one set only gives that one.

    Returns:
        The set.

    Raises:
        ValueError: If there are no tensors by name, or not the wanted set; the message continues "FILE ...".
    """
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        found = _ncsnv2(content, weights)
    elif not isinstance(content, Mapping):
        found = Selection("", "", {}, {})
    elif isinstance(content.get("ema"), Mapping) and "shadow_params" in content["ema"]:
        found = _score_sde(content, weights)
    else:
        found = _container(content, weights)
    tensors, renamed = _modern_names(found.tensors)
    if not tensors:
        raise ValueError(f"holds no tensors by name: its content is a {type(content).__name__}")
    layout = printable(found.layout) + (", old attention names" if renamed else "")
    return Selection(layout, found.which, tensors, found.metadata)


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
        key = "state_dict" if weights == "ema" else "current_model_state"
        facts = _facts(content) | _card(content)
        return Selection(f"Lightning checkpoint, {_word(weights)}", weights, _by_name(content.get(key)), facts)
    raw = [key for key in RAW_KEYS if _inner(content.get(key))]
    ema = [key for key in EMA_KEYS if _inner(content.get(key))]
    if "unaveraged_model_state_dict" in raw and "model_state_dict" in raw:
        ema = ["model_state_dict"]
    if not raw and not ema:
        layout = f"module object ({content.kind})" if isinstance(content, ModuleState) else "plain state dict"
        return Selection(layout, "only one", _by_name(content), _facts(getattr(content, "facts", {})))
    if weights == "raw" and not raw:
        raise ValueError(f"holds EMA weights only (under `{ema[0]}`); use weights: ema")
    key = (ema or raw)[0] if weights == "ema" else raw[0]
    inner = content[key]
    return Selection(
        _layout(content, key, inner) + (f", {_word(weights)}" if ema else ""),
        weights if ema else "only one",
        _inner(inner),
        _facts(content) | _facts(getattr(inner, "facts", {})),
    )


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
    return {name: t.detach() for name, t in named if isinstance(name, str) and isinstance(t, Tensor)}


def _facts(content: Any) -> dict[str, str]:
    """The plain numbers and short texts of a mapping: step, epoch, decay, accuracy."""
    named = content.items() if isinstance(content, Mapping) else ()
    plain = {str(k): v for k, v in named if isinstance(v, bool | int | float) or (isinstance(v, str) and len(v) <= 80)}
    return {name: str(value) for name, value in plain.items()}


def _card(content: Mapping) -> dict[str, str]:
    """The card that our own checkpoints carry, whose texts may be long."""
    card = content.get("card")
    named = card.items() if isinstance(card, Mapping) else ()
    return {name: value for name, value in named if isinstance(name, str) and isinstance(value, str)}


def _word(weights: str) -> str:
    return "EMA" if weights == "ema" else "raw"


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


def clean_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes `module.` and `model.` where every name has them."""
    cleaned = dict(tensors)
    while prefix := next((p for p in ("module.", "model.") if cleaned and all(n.startswith(p) for n in cleaned)), None):
        cleaned = {name.removeprefix(prefix): tensor for name, tensor in cleaned.items()}
    return cleaned
