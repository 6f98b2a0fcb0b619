"""Objects from the configuration in somebody's folder: only this package's own kinds, and networks of torch.

A configuration is a program: it names classes, and to build a class runs it. Who gives `lit-pursamere test` a file
means that. Who looks at a folder does not, so what lies there may name

    purifiers, score models, networks, detectors, attacks, data modules ... of this package; `weights.trained`
    layers of torch.nn.modules and networks of torchvision.models, without weights to be downloaded
    what is under a module of the user's own, which `--trust MODULE` lets in

Everything else is refused before it is imported, wherever it stands: by a look at the whole configuration before it is
parsed and after, and by the parser itself, which then imports nothing else and builds nothing where any value will do.
"""

from __future__ import annotations

import inspect
import pydoc
import re
import threading
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings
from torch import nn
from torchvision import models

from lit_pursamere.attacks import Attack
from lit_pursamere.cli.lightning import know_names
from lit_pursamere.data import ImageDataModule
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion.noise import NoiseSource
from lit_pursamere.diffusion.schedules import NoiseLevels, VariancePreserving
from lit_pursamere.threat import ThreatModel

__all__ = ["Untrusted", "build", "is_known"]

ROOMS = tuple(
    f"lit_pursamere.{room}"
    for room in ("attacks", "data", "defense", "diffusion", "networks", "purifiers", "tasks", "threat")
)
KINDS = (nn.Module, ImageDataModule, Attack, Ensemble, NoiseSource, NoiseLevels, VariancePreserving, ThreatModel)
FUNCTIONS = ("lit_pursamere.weights.trained", "lit_pursamere.weights.loading.trained")
LAYERS, NETWORKS = "torch.nn", "torchvision.models"
DOWNLOADS = re.compile(r"weights|pretrained")  # arguments of torchvision's networks that fetch a file
DENIED = re.compile(r"Importing '([^']*)' is not allowed")
LOCK = threading.RLock()  # the parser's settings belong to the whole process


class Untrusted(ValueError):
    """A configuration that names what looking at a folder does not run."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(
            f"{file} names {name}, which is not run to look at {file.parent}; if it is your own, repeat the command "
            f"with --trust {name.rpartition('.')[0] or name}"
        )


def build(kind: type, part: Any, file: Path, trusted: Sequence[str] = ()) -> Any:
    """The object that a part of a configuration describes, of this class or a subclass.

    Args:
        kind: The class.
        part: What the file says, as `read_part` gives it.
        file: Where it stands, for errors.
        trusted: Modules of which anything may be built.

    Raises:
        Untrusted: If anything that is named is none of the kinds above; nothing of the kind was imported.
        ArgumentError: If it describes none.
        ValueError: If the class refuses its arguments.
    """
    know_names()
    allowed = [*ROOMS, *FUNCTIONS, *trusted, *_vetted(part, file, trusted)]
    with _importing_only(allowed):
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(kind, "part")
        try:
            parsed = parser.parse_object({"part": part})
            _vetted(parsed, file, trusted)
            return parser.instantiate(parsed).part
        except (ArgumentError, ValueError) as error:
            if denied := DENIED.search(str(error)):
                raise Untrusted(denied[1], file) from None
            raise


def is_known(name: str, trusted: Sequence[str] = ()) -> bool:
    """Whether a class or function may be built from a folder's configuration; nothing else is imported to find out."""
    if name in FUNCTIONS or any(_within(name, module) for module in trusted):
        return True
    if not any(_within(name, module) for module in (*ROOMS, LAYERS, NETWORKS)):
        return False
    found = _found(name)
    home = getattr(found, "__module__", None) or ""
    if inspect.isfunction(found):
        return _within(home, NETWORKS) and found.__name__ in models.list_models()
    if not inspect.isclass(found):
        return False
    if any(_within(home, room) for room in ROOMS):
        return issubclass(found, KINDS)
    return issubclass(found, nn.Module) and (_within(home, f"{LAYERS}.modules") or _within(home, NETWORKS))


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _found(name: str) -> Any:
    """What goes by a dotted name; None if nothing does."""
    try:
        return pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return None


def _vetted(value: Any, file: Path, trusted: Sequence[str]) -> set[str]:
    """Names of torch and torchvision in a configuration, as they are written and as they are defined.

    Raises:
        Untrusted: If a `class_path` anywhere is not known.
    """
    if isinstance(value, Namespace):
        value = vars(value)
    if isinstance(value, str) and (_within(value, LAYERS) or _within(value, NETWORKS)) and is_known(value):
        found = _found(value)
        return {value, f"{found.__module__}.{found.__qualname__}"}
    if isinstance(value, dict):
        if "class_path" in value:
            _check(value, file, trusted)
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        return set().union(*(_vetted(item, file, trusted) for item in value))
    return set()


def _check(entry: dict, file: Path, trusted: Sequence[str]) -> None:
    """Raise Untrusted unless what an entry names is known; names without a dot are the parser's, which imports none."""
    name = entry["class_path"]
    if not isinstance(name, str) or ("." in name and not is_known(name, trusted)):
        raise Untrusted(str(name), file)
    arguments = entry.get("init_args") or {}
    arguments = vars(arguments) if isinstance(arguments, Namespace) else arguments
    arguments = {**arguments, **(entry.get("dict_kwargs") or {})} if isinstance(arguments, dict) else {}
    if _within(name, NETWORKS) and NETWORKS not in trusted and any(
        value not in (None, False) for key, value in arguments.items() if DOWNLOADS.match(key)
    ):  # fmt: skip
        raise Untrusted(f"{name} with weights that would be downloaded", file)


@contextmanager
def _importing_only(allowed: Sequence[str]) -> Iterator[None]:
    """The parser imports nothing but what is under these names, and builds nothing where a value may be anything."""
    with LOCK:
        before = dict(parsing_settings)
        parsing_settings["import_path_verdicts"] = {}
        try:
            set_parsing_settings(
                instantiate_subclass_spec_in_any=False,
                import_path_denylist=["*"],
                import_path_allowlist=list(allowed),
            )
            yield
        finally:
            parsing_settings.clear()
            parsing_settings.update(before)
