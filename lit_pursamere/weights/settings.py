"""Settings that a weight file states and no shape shows: how pixels are normalised, what a family computes with.

A network or score model says in its attribute `settings` what it computes with, by the names that files use: those of
diffusers' config.json and scheduler_config.json, of EDM's snapshots and of our own cards. What a file states and the
module has as well must agree. Normalisation is known by its tensors, `mean` and `std` of one parent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lit_pursamere.weights.files import printable

__all__ = ["check_settings", "is_normaliser", "normalisation", "normalisers", "settings_of"]

MEANS = {"mean": "std", "new_mean": "new_std", "mu": "sigma"}  # RobustBench, the robustness library, others
CHANNELS_AT_MOST = 4
WORDS = {"none": None, "null": None, "true": True, "false": False}


def is_normaliser(name: str) -> bool:
    """Whether a tensor of that name may be a mean or a deviation of pixels."""
    return name.rpartition(".")[2] in {*MEANS, *MEANS.values()}


def normalisers(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of the tensors that are mean or deviation of pixels, each with `mean` or `std`."""
    found: dict[str, str] = {}
    for name, mean in tensors.items():
        parent, last = name[: name.rfind(".") + 1], name[name.rfind(".") + 1 :]
        std = tensors.get(parent + MEANS.get(last, "."))
        if std is not None and mean.shape == std.shape and mean.numel() <= CHANNELS_AT_MOST:
            found |= {name: "mean", parent + MEANS[last]: "std"}
    return found


def normalisation(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Mean and deviation of pixels among tensors, as JSON by the names `mean` and `std`, where there are such."""
    return {kind: json.dumps(_numbers(tensors[name])) for name, kind in normalisers(tensors).items()}


def settings_of(module: nn.Module) -> dict[str, Any]:
    """What a module computes with: its `settings`, and its normalisation unless that comes with the weights."""
    loaded = normalisers(module.state_dict())
    fixed = {} if loaded else {"mean": "none", "std": "none"} | normalisation(dict(module.named_buffers()))
    return fixed | dict(getattr(module, "settings", {}))


def check_settings(module: nn.Module, stated: Mapping[str, str], more: Mapping[str, Any]) -> None:
    """Refuse a file whose settings are not those of the module.

    Args:
        module: What is to be filled.
        stated: What the file says about itself.
        more: What else it will compute with, where it is part of something.

    Raises:
        ValueError: If a setting differs; the message continues "FILE ...".
    """
    ours = settings_of(module) | dict(more)
    others = [name for name in ours if name in stated and _plain(ours[name]) != _plain(stated[name])]
    if others:
        there = ", ".join(f"{name} {printable(str(stated[name]))}" for name in others)
        here = ", ".join(f"{name} {ours[name]}" for name in others)
        raise ValueError(
            f"was made for {there}, and this {type(module).__name__} computes with {here}; set it so, or take a "
            "network that can"
        )


def _numbers(tensor: Tensor) -> list[float]:
    return [_rounded(number) for number in tensor.flatten().tolist()]


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")


def _plain(value: Any) -> Any:
    """A setting as a value that can be compared, whether a file has it as JSON, as Python prints it, or as it is."""
    if isinstance(value, str):
        try:
            value = WORDS[value.lower()] if value.lower() in WORDS else json.loads(value, parse_int=float)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, list | tuple):
        return [_plain(item) if isinstance(item, int | float) else item for item in value]
    return _rounded(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
