"""A user's network as the classifier of a defence; the network itself is left as it is."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_pursamere.networks import Normalised
from lit_pursamere.weights import load_weights, save_weights
from lit_pursamere.weights.arguments import is_plain

__all__ = ["Classifier", "imported"]

Normalisation = tuple[float | Sequence[float], float | Sequence[float]]


class Classifier:
    """A copy of a network, behind a normalisation if it wants one, and how a configuration would tell of it.

    Args:
        model: Any module from images (B, C, H, W) to logits (B, K): a plain one, a LightningModule, one in
            DataParallel; in any mode, on any device. Nothing of it is changed.
        normalise: (mean, std) that the model wants of its images, a number each, or one per channel. None: it takes
            images in [0, 1] as they are.

    Raises:
        TypeError: If it is no module, or cannot be copied.
    """

    def __init__(self, model: nn.Module, normalise: Normalisation | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be a torch.nn.Module; got {type(model).__name__}")
        while isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        self.network = copied(model)
        self.constants = None if normalise is None else [numbers(value) for value in normalise]
        self.module = self.network if self.constants is None else Normalised(self.network, *self.constants)

    def configuration(self, file: Path, probe: Tensor) -> dict[str, Any] | None:
        """What a configuration says of it, its weights being written to a file; None if it cannot be told.

        A class of a module that can be imported, whose arguments are its attributes of the same names, or kept as
        Lightning does, and which gives the same logits once it is built anew and filled with the weights.

        Args:
            file: For the weights.
            probe: Images (B, C, H, W) to compare logits on.
        """
        kind = type(self.network)
        arguments = arguments_of(self.network)
        if arguments is None or kind.__module__ == "__main__" or "<" in kind.__qualname__:
            return None
        file.parent.mkdir(parents=True, exist_ok=True)
        save_weights(self.network, file)
        try:
            rebuilt = kind(**arguments).eval()
            load_weights(rebuilt, file)
            with torch.no_grad():
                same = torch.equal(rebuilt.to(probe.device)(probe), self.network.eval()(probe))
        except Exception:  # a user's class may raise anything
            same = False
        if not same:
            file.unlink()
            return None
        told: dict[str, Any] = {"class_path": f"{kind.__module__}.{kind.__qualname__}"}
        if arguments:
            told["init_args"] = arguments
        filled = {
            "class_path": "lit_pursamere.weights.trained",
            "init_args": {"network": told, "checkpoint": str(file)},
        }
        if self.constants is None:
            return filled
        mean, std = self.constants
        return {
            "class_path": "lit_pursamere.networks.Normalised",
            "init_args": {"network": filled, "mean": mean, "std": std},
        }


def copied(model: nn.Module) -> nn.Module:
    """A copy of a module, whatever mode its tensors were made in.

    Raises:
        TypeError: If it holds what cannot be copied.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in (*vars(module).values(), *module.parameters(recurse=False), *module.buffers(recurse=False)):
            if isinstance(value, Tensor) and (not value.is_leaf or value.is_inference()):
                fresh = value.detach().clone()  # neither kind can be copied as it is
                memo[id(value)] = nn.Parameter(fresh, False) if isinstance(value, nn.Parameter) else fresh
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise TypeError(f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error})") from error


def arguments_of(model: nn.Module) -> dict[str, Any] | None:
    """The arguments that a module of this class would be built with, as JSON values; None if they are not known."""
    kept = getattr(model, "hparams", None)
    if isinstance(kept, Mapping) and kept:
        return dict(kept) if is_plain(kept) else None
    found = {}
    _, *parameters = inspect.signature(type(model).__init__).parameters.values()
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = getattr(model, parameter.name, parameter.default)
        if value is not parameter.default and value is not None and is_plain(value):
            found[parameter.name] = value
        elif parameter.default is parameter.empty:
            return None
    return found


def numbers(value: float | Sequence[float]) -> list[float]:
    """One number, or one per channel."""
    return [float(value)] if isinstance(value, int | float) else [float(entry) for entry in value]


def imported(name: str) -> Any:
    """What a name such as "mynet:SmallResNet" or "mynet.SmallResNet" stands for, the current folder being searched too.

    Raises:
        ValueError: If it is none, or there is no such module.
    """
    module, colon, path = name.partition(":")
    if not colon:
        module, _, path = name.rpartition(".")
    if not module or not path:
        raise ValueError(f"{name!r} names no class; give it as module:Class, such as mynet:SmallResNet")
    advice = "is its folder the current one, or on PYTHONPATH?"
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = import_module(module)
    except ImportError as error:
        raise ValueError(f"{name}: {error}; {advice}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{name}: there is no {part} in {module}")
        found = getattr(found, part)
    return found
