"""One purifier of a comparison: what its entry says, put together with the shared score model, and checked."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lit_pursamere import purifiers
from lit_pursamere.compare.reading import check_keys, in_place, listed, mapping
from lit_pursamere.purifiers import Purifier

__all__ = ["Entry", "read_entry", "refuse_own"]

KNOWN = ("purifier", "class_path", "init_args", "with")
GROUPS = ("model.", "data.", "trainer.")  # of the options of `test`
OWN = ("model.purifier", "model.output", "model.undefended")  # options that the comparison itself gives to `test`


@dataclass(frozen=True)
class Entry:
    """One purifier of a comparison.

    Args:
        purifier: `class_path` and `init_args`, complete.
        options: Options of `test` for this purifier alone, by their names on the command line.
    """

    purifier: dict
    options: dict = field(default_factory=dict)


def read_entry(name: str, value: object, score_model: object, attacks: Collection[str], file: Path) -> Entry:
    """Read one entry of `purifiers`.

    Args:
        name: Its name, which becomes that of a folder.
        value: What stands behind the name.
        score_model: Takes the place of the score model in the purifier's file (None: nothing does).
        attacks: Names of the attacks.
        file: The file of the comparison.

    Raises:
        FileNotFoundError: If it names a file that does not exist.
        ValueError: If it is not understood; the message names the key and the known ones.
    """
    where = f"purifiers.{name} in {file}"
    if not re.fullmatch(r"\w[\w.+=() -]*", name):
        raise ValueError(f"{where}: a name is a folder's: letters, digits, spaces and _ . + - = ( ); got {name!r}")
    entry = {"purifier": value} if isinstance(value, str) else mapping(value, where)
    check_keys(entry, KNOWN, where=where)
    if ("purifier" in entry) == ("class_path" in entry):
        raise ValueError(
            f"{where} needs either `purifier`, a file, or `class_path`; it has {listed(entry) or 'neither'}"
        )
    purifier = in_place(entry.get("purifier", entry.get("class_path")), file)
    purifier = {"class_path": purifier} if isinstance(purifier, str) else mapping(purifier, where)
    check_keys(purifier, ("class_path", "init_args"), required=("class_path",), where=f"the purifier of {where}")
    own = mapping(in_place(entry.get("init_args", {}), file), f"{where}, init_args")
    if score_model is not None:
        purifier, own = with_score_model(purifier, score_model), with_score_model(own, score_model, missing=True)
    arguments = {**purifier.get("init_args", {}), **own}
    if known := parameters(purifier["class_path"], where):
        check_keys(arguments, known, where=f"{where}, init_args")
    options = mapping(entry.get("with", {}), f"{where}, with")
    for option in options:
        check_option(str(option), attacks, f"{where}, with")
    return Entry({"class_path": purifier["class_path"], "init_args": arguments}, options)


def check_option(option: str, attacks: Collection[str], where: str) -> None:
    """Refuse what is no option of `test` for one purifier.

    Raises:
        ValueError: Naming the option and what is known.
    """
    refuse_own(option, where)
    if not option.startswith(GROUPS):
        raise ValueError(f"{where}: options of `test` begin with {listed(GROUPS)} (model.evaluations); got {option!r}")
    attack = option.removeprefix("model.attacks.")
    if attack != option and not any(attack == name or attack.startswith(f"{name}.") for name in attacks):
        raise ValueError(f"{where}: {option} is about no attack of `test`, which has {listed(attacks)}")


def refuse_own(option: str, where: str) -> None:
    """Refuse an option of `test` that decides what the comparison decides.

    Raises:
        ValueError: If it is one of these, or a part of one.
    """
    if any(option == own or option.startswith(f"{own}.") for own in OWN):
        raise ValueError(
            f"{where}: {option} is given by the comparison itself; name purifiers under `purifiers`, their arguments "
            "under `init_args`, and the folder under `output`"
        )


def with_score_model(part: object, score_model: object, missing: bool = False) -> object:
    """A purifier with a score model for it and all inside it that take one; or only where one is missing."""
    if isinstance(part, list):
        return [with_score_model(item, score_model, missing) for item in part]
    if not isinstance(part, dict):
        return part
    part = {key: with_score_model(value, score_model, missing) for key, value in part.items()}
    if "score_model" in parameters(part.get("class_path", "")):
        arguments = part.get("init_args", {})
        part["init_args"] = {
            "score_model": score_model,
            **arguments,
            **({} if missing else {"score_model": score_model}),
        }
    return part


def parameters(class_path: str, where: str = "") -> Iterable[str]:
    """Names of the arguments of a purifier's class; none if they are not known: building it will say what is wrong.

    Raises:
        ValueError: If a name without a module is none of a purifier here, and `where` says who gives it.
    """
    module, _, name = str(class_path).rpartition(".")
    if where and not module and name not in purifiers.__all__:
        raise ValueError(f"{where}: there is no purifier {name!r}; known: {listed(purifiers.__all__)}")
    try:
        found = getattr(importlib.import_module(module or purifiers.__name__), name, None)
    except ImportError:
        return ()
    if not inspect.isclass(found) or not issubclass(found, Purifier):
        return ()
    given = inspect.signature(found).parameters
    return given if all(parameter.kind != parameter.VAR_KEYWORD for parameter in given.values()) else ()
