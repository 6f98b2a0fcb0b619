"""The arguments of a module's constructor, as Lightning keeps them in a checkpoint: plain values, never objects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_pursamere.weights.files import Content, printable, read_content

__all__ = ["kept_arguments"]

KEY, WHOLE = "hyper_parameters", "hparams_name"
NO_ARGUMENTS = (None, "kwargs")  # names under which each of them is an argument of its own


def kept_arguments(path: str | Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a module was built with whose checkpoint this is, given ones in place of those.

    Args:
        path: Weight file of any kind; only a Lightning checkpoint of a module that called `save_hyperparameters` has
            any.
        given: Those that win.

    Returns:
        Plain values by name; under the name of the one argument that held all of them, if there was such.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, or one of its arguments is no plain value and is not given.
    """
    content: Content = read_content(path)
    value = content.value if isinstance(content.value, Mapping) else {}
    kept = value.get(KEY)
    found = {name: each for name, each in (kept.items() if isinstance(kept, Mapping) else ()) if name not in given}
    for name, each in found.items():
        if not is_plain(each):
            raise ValueError(
                f"{content.path} keeps the argument {printable(str(name))} as a {kind_of(each)}, which is not built "
                "from a file; give it among the arguments"
            )
    plain = {str(name): each for name, each in found.items() if not str(name).startswith("_")}
    whole = value.get(WHOLE)
    if whole in NO_ARGUMENTS or not isinstance(whole, str) or not plain:
        return plain | dict(given)
    return {whole: plain} | dict(given)


def is_plain(value: Any) -> bool:
    """Whether a value is of numbers and texts alone, and describes no object."""
    if isinstance(value, Mapping):
        return "class_path" not in value and all(isinstance(key, str) and is_plain(v) for key, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def kind_of(value: Any) -> str:
    """What a value that is not plain is, in words."""
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        return printable(value["class_path"])
    return printable(str(getattr(value, "origin", type(value).__name__)))
