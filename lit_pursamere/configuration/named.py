"""What is built around weights that have a name: `score_model: cifar10/edm` stands for its configuration."""

from __future__ import annotations

import copy
from typing import Any

from lit_pursamere.configuration.composition import read_yaml
from lit_pursamere.shipped import home
from lit_pursamere.weights.registry import Entry, entries, near

__all__ = ["configuration_of", "spelled_out"]

KINDS = {"score_model": "score model", "classifier": "classifier"}


def configuration_of(entry: Entry) -> dict[str, Any]:
    """The class that takes an entry's weights, its arguments, and the weights by their name."""
    built = copy.deepcopy(entry.build)
    content = built if isinstance(built, dict) else read_yaml(home("configs") / built)
    return {**content, "init_args": {**content.get("init_args", {}), "checkpoint": entry.name}}


def spelled_out(setting: str, name: str) -> dict[str, Any] | str:
    """What a name stands for as `score_model` or `classifier`; the name itself if it is none of such weights.

    Raises:
        ValueError: If it is that of weights of the other kind, or nearly one.
    """
    entry = entries().get(name)
    if entry is None:
        if hint := near(name):
            raise ValueError(f"{setting}: no weights are called {name}{hint}")
        return name
    if entry.kind != KINDS[setting]:
        raise ValueError(f"{setting}: {name} is the name of a {entry.kind}")
    return configuration_of(entry)
