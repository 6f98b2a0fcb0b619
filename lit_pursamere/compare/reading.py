"""Configurations as plain data: YAML with every file that it names in its place, and mistakes that name the key."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml
from jsonargparse import get_loader

__all__ = ["check_keys", "in_place", "listed", "load", "mapping"]


def in_place(value: object, file: Path) -> object:
    """A part of a configuration with the content of every file that it names; names are relative to `file`.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if isinstance(value, dict):
        return {key: in_place(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [in_place(item, file) for item in value]
    if not isinstance(value, str) or not value.endswith((".yaml", ".yml")):
        return value
    named = file.parent / value
    if not named.is_file():
        raise FileNotFoundError(f"there is no file {named}, which {file} names as {value}")
    return in_place(load(named), named)


def load(file: Path) -> object:
    """The content of a YAML file, numbers read as everywhere on the command line.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML, or gives one key twice, of which YAML would silently take the last.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    text = file.read_text(encoding="utf-8")
    try:
        refuse_repeated(yaml.compose(text, yaml.SafeLoader), file)
        return get_loader("yaml")(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not readable as YAML: {' '.join(str(error).split())}") from error


def refuse_repeated(node: yaml.Node | None, file: Path) -> None:
    """Refuse a mapping with one key twice."""
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(
                    f"{file} has two entries {key!r} (one before line {node.end_mark.line + 1}); rename one"
                )
        for _, value in node.value:
            refuse_repeated(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            refuse_repeated(value, file)


def mapping(value: object, where: str) -> dict:
    """The value, if it is a mapping.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a mapping (`key: value` lines); got {value!r}")
    return value


def check_keys(content: dict, known: Iterable[str], where: str, required: Iterable[str] = ()) -> None:
    """Refuse a mapping with an unknown key, or without a required one.

    Raises:
        ValueError: Naming the key and the known ones.
    """
    for key in content:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}; known: {listed(known)}")
    for key in required:
        if key not in content:
            raise ValueError(f"{where} lacks {key!r}; known: {listed(known)}")


def listed(names: Iterable[object]) -> str:
    """Names in a sentence."""
    return ", ".join(map(str, names))
