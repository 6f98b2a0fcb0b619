"""A module from its checkpoint: of a LightningModule, the checkpoint knows the arguments as well as the weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lit_pursamere.front.classifier import imported
from lit_pursamere.weights import load_weights
from lit_pursamere.weights.arguments import kept_arguments

__all__ = ["load_module"]


def load_module(
    module: str | type, checkpoint: str | Path, arguments: Mapping[str, Any] | None = None, weights: str = "ema"
) -> nn.Module:
    """Build a module and fill it with its weights; its `forward` is then the classifier.

    Nothing in the file is run. Of a Lightning checkpoint, what `save_hyperparameters` kept are the constructor's
    arguments. In a configuration: `class_path: lit_pursamere.load_module`.

    Args:
        module: The class, or its name: "mylit:LitNet", which is looked for in the current folder, too.
        checkpoint: Lightning's .ckpt, or a weight file of any other kind.
        arguments: Of the constructor; they win over those in the checkpoint.
        weights: `ema` or `raw`: averaged weights where there are such, or those that were trained.

    Returns:
        The module in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there is no such class, it cannot be built with these arguments, or the weights do not fit it.
    """
    kind: Any = imported(module) if isinstance(module, str) else module
    name = module if isinstance(module, str) else kind.__name__
    found = accepted(kind, kept_arguments(checkpoint, arguments or {}), arguments or {})
    try:
        built = kind(**found)
    except (TypeError, ValueError) as error:
        signature = f"{name.rpartition(':')[2]}{inspect.signature(kind)}" if callable(kind) else name
        raise ValueError(
            f"{signature} cannot be built with the arguments {found}: {error}; give what it needs as --arguments"
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{name} makes a {type(built).__name__}, no torch.nn.Module")
    load_weights(built, checkpoint, weights)
    return built.eval()


def accepted(kind: Any, found: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a constructor has, and all that were given; a checkpoint may keep more, as Lightning's do."""
    if not callable(kind):
        return found
    parameters = inspect.signature(kind).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return found
    names = {parameter.name for parameter in parameters} | given.keys()
    return {name: value for name, value in found.items() if name in names}
