"""Objects from the configuration in somebody's folder: only this package's own kinds, and networks of torch.

A configuration is a program: it names classes, and to build a class runs it. Who gives `lit-pursamere test` a file
means that. Who looks at a folder does not, so what lies there may name

    purifiers, score models, networks, detectors, attacks, data modules ... that this package shows in an `__all__`,
    the task of a `test`, and `weights.trained`
    layers of torch.nn.modules and classifiers of torchvision.models, with numbers for arguments: they call what they
    are given, and fetch weights when they are told to
    classifiers of torchvision and timm by their names, `zoo.ZooClassifier`, which builds them empty; those of
    RobustBench with `--trust robustbench`: to build some of them fetches weights
    what is under a module of the user's own, which `--trust MODULE` lets in

Everything else is refused before it is imported, wherever it stands: by a look at the whole configuration before it is
parsed and after, and by the parser itself, which then imports nothing else and builds nothing where any value will do.
"""

from __future__ import annotations

import inspect
import pydoc
import re
import sys
import threading
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings
from torch import nn
from torchvision import models

from lit_pursamere.attacks import Attack
from lit_pursamere.configuration.building import know_names
from lit_pursamere.data import ImageDataModule
from lit_pursamere.defense.detectors import Detector
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.diffusion import NoiseLevels, NoiseSource, ScoreModel, VariancePreserving
from lit_pursamere.purifiers import Purifier
from lit_pursamere.tasks import LitRobustness
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights import trained
from lit_pursamere.zoo import ZooClassifier

__all__ = ["Untrusted", "build", "is_known"]

PACKAGE, NETWORKS = "lit_pursamere", "lit_pursamere.networks"
KINDS = (
    Purifier, ScoreModel, Detector, Attack, ImageDataModule, Ensemble, NoiseSource, NoiseLevels, VariancePreserving,
    ThreatModel, LitRobustness,
)  # fmt: skip
TORCH, VISION = "torch.nn", "torchvision.models"
DOWNLOADS = re.compile(r"weights|pretrained")  # arguments of torchvision's networks that fetch a file
DENIED = re.compile(r"Importing '([^']*)' is not allowed")
FETCHING = "robustbench"  # of the libraries of `zoo`
LOCK = threading.RLock()  # the parser's settings belong to the whole process


class Untrusted(ValueError):
    """A configuration that names what looking at a folder does not run."""

    def __init__(self, name: str, file: Path, how: str = "") -> None:
        super().__init__(
            f"{file} names {name}{how}, which is not run to look at {file.parent}; if it is your own, repeat the "
            f"command with --trust {name.rpartition('.')[0] or name}"
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
    allowed = [*_ours(), *trusted, *_vetted(part, file, trusted)]
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
    return name in _ours() or any(_within(name, module) for module in trusted) or _foreign(name) is not None


@cache
def _ours() -> frozenset[str]:
    """Names of what this package lets be built: classes of these kinds that a module of it shows in its `__all__`."""
    found = {f"{trained.__module__}.trained"}
    for path, module in list(sys.modules.items()):
        if _within(path, PACKAGE):
            shown = {name: getattr(module, name, None) for name in getattr(module, "__all__", ())}
            found |= {
                f"{path}.{name}" for name, one in shown.items() if one in (trained, ZooClassifier) or _is_part(one)
            }
    return frozenset(found)


def _is_part(found: Any) -> bool:
    if not inspect.isclass(found) or not _within(found.__module__, PACKAGE):
        return False
    return issubclass(found, KINDS) or (_within(found.__module__, NETWORKS) and issubclass(found, nn.Module))


@cache
def _foreign(name: str) -> str | None:
    """Where a layer of torch or a classifier of torchvision is defined; None if the name is that of neither."""
    if not (_within(name, TORCH) or _within(name, VISION)):
        return None
    try:
        found: Any = pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return None
    layer = inspect.isclass(found) and issubclass(found, nn.Module) and _within(found.__module__, f"{TORCH}.modules")
    # Of torchvision's networks those are left out that fetch weights of a part of theirs unless told otherwise.
    network = inspect.isfunction(found) and found in map(models.get_model_builder, models.list_models(module=models))
    return f"{found.__module__}.{found.__qualname__}" if layer or network else None


def _within(name: str, module: str) -> bool:
    return name == module or name.startswith(f"{module}.")


def _vetted(value: Any, file: Path, trusted: Sequence[str]) -> set[str]:
    """Names of torch and torchvision that a configuration builds, as they are written and as they are defined.

    Raises:
        Untrusted: If a `class_path` anywhere is not known.
    """
    value = vars(value) if isinstance(value, Namespace) else value
    if isinstance(value, dict):
        inner = set().union(*(_vetted(item, file, trusted) for item in value.values()))
        return inner | _checked(value, file, trusted) if "class_path" in value else inner
    if isinstance(value, list | tuple | set):
        return set().union(*(_vetted(item, file, trusted) for item in value))
    return set()


def _checked(entry: dict, file: Path, trusted: Sequence[str]) -> set[str]:
    """Raise Untrusted unless what an entry names is known; names without a dot are the parser's, which imports none."""
    name = entry["class_path"]
    if not isinstance(name, str) or ("." in name and not is_known(name, trusted)):
        raise Untrusted(str(name), file)
    if name == f"{ZooClassifier.__module__}.{ZooClassifier.__qualname__}":
        _check_zoo(entry.get("init_args"), file, trusted)
    defined = None if any(_within(name, module) for module in trusted) else _foreign(name)
    if defined is None:
        return set()
    for given in (entry.get("init_args"), entry.get("dict_kwargs")):
        arguments = vars(given) if isinstance(given, Namespace) else given
        for key, value in arguments.items() if isinstance(arguments, dict) else ():
            if not _is_plain(value) or (DOWNLOADS.match(str(key)) and value not in (None, False)):
                raise Untrusted(name, file, f" with {key} {str(value)[:40]!r}")
    return {name, defined}


def _check_zoo(given: Any, file: Path, trusted: Sequence[str]) -> None:
    """Raise Untrusted if the library that a classifier is named of fetches weights when it builds an empty network."""
    name = str((vars(given) if isinstance(given, Namespace) else given or {}).get("name"))
    library = name.partition(":")[0].strip()
    if library == FETCHING and not any(_within(library, module) for module in trusted):
        raise Untrusted(f"{FETCHING}.model_zoo", file)


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, or a word that names nothing."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and value.isidentifier())


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
