"""Attacks as users name them: a set, a file, a class, an object; and what a configuration says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_pursamere.attacks import Attack
from lit_pursamere.configuration.building import build
from lit_pursamere.configuration.composition import part_of, read_yaml
from lit_pursamere.shipped import part
from lit_pursamere.threat import Pixels, ThreatModel

__all__ = ["Attacks", "require_known", "resolved"]

One = Attack | str | Mapping[str, Any]
Attacks = One | Sequence[One]
TARGETED_FROM = 4  # classes that the targeted loss of the logits' ratio needs


def resolved(attacks: Attacks, classes: int, draws: bool) -> tuple[dict[str, Attack], dict[str, Any] | None]:
    """Attacks by name, and what a configuration says of them, None if it cannot.

    Args:
        attacks: The name of a set (configs/attacks/), of a file (configs/attack/), of a class or of your own file; an
            `Attack`; attacks by name; or a list of all these.
        classes: Of the classifier: with fewer than four, APGD goes by the margin in place of its targeted loss.
        draws: Whether the defence draws noise: then of two sets the one that averages over draws is taken.

    Raises:
        ValueError: If two of a list have one name, or one is unknown.
    """
    found: dict[str, Any] = {}
    for one in [attacks] if isinstance(attacks, Attack | str | Mapping) else attacks:
        for name, told in by_name(one, draws).items():
            if name in found:
                raise ValueError(f"two attacks are called {name}; give them as a mapping, name by name")
            found[name] = few(told, classes)
    built = {name: told if isinstance(told, Attack) else build(Attack, told) for name, told in found.items()}
    told = {name: configuration(one) if isinstance(one, Attack) else one for name, one in found.items()}
    return built, None if None in told.values() else told


def require_known(attacks: Attacks) -> None:
    """Raise ValueError or FileNotFoundError if an attack is unknown, before weights and images are asked for."""
    resolved(attacks, TARGETED_FROM, False)


def by_name(one: One, draws: bool) -> dict[str, Any]:
    """Attacks by name: objects, or what a configuration says of them."""
    if isinstance(one, Attack):
        kind = getattr(one, "wrapped", type(one))  # an attack of another library goes by its name there
        name = kind if isinstance(kind, str) else kind.__name__
        return {f"{name.rpartition('.')[2]}-{one.view}": one}
    if isinstance(one, str):
        whole = (draws and part(f"{one}_stochastic", ["attacks"])) or part(one, ["attacks"])
        name = Path(one).stem if one.endswith((".yaml", ".yml")) else one.rpartition(".")[2]
        return read_yaml(whole) if whole else {name: part_of(one, ["attacks", name])}
    if "class_path" in one:
        return {str(one["class_path"]).rpartition(".")[2]: one}
    return {name: each if isinstance(each, Attack) else part_of(each, ["attacks", name]) for name, each in one.items()}


def few(told: Any, classes: int) -> Any:
    """What a configuration says of an attack, without a loss that needs more classes than there are."""
    if classes >= TARGETED_FROM or isinstance(told, Attack) or told.get("init_args", {}).get("loss") != "dlr-t":
        return told
    return {**told, "init_args": {**told["init_args"], "loss": "margin"}}


def configuration(attack: Attack) -> dict[str, Any] | None:
    """What a configuration says of an attack; None if it holds what no file can."""
    try:
        return told_of(attack)
    except TypeError:
        return None


def told_of(value: Any) -> Any:
    """A value of an attack as a configuration has it.

    Raises:
        TypeError: If it is a network or the like.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Pixels):
        return value.plain()
    if isinstance(value, float):
        return value
    if isinstance(value, ThreatModel):
        return {"norm": value.norm, "eps": value.plain_eps}
    if isinstance(value, Mapping):
        return {str(name): told_of(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [told_of(item) for item in value]
    if isinstance(value, Attack):
        fields = {field.name: told_of(getattr(value, field.name)) for field in dataclasses.fields(value) if field.init}
        return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": fields}
    raise TypeError(f"no configuration can hold {value!r}")
