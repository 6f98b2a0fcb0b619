"""The word `data` for the channels, image_size or num_classes of a network: what the data say of their images.

model: {score_model: {class_path: NCSNv2Score, init_args: {channels: data, image_size: data}}}
data:  {class_path: ImageFolder, init_args: {root: photos, image_size: 32}}

The data module is built for that, which reads no image: known data sets have these numbers as attributes of their
class, folders count their classes, files of arrays know their shapes. Numbers that are told stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["linked", "require_numbers", "stated"]

WORD = "data"
LINKED = ("channels", "image_size", "num_classes")


def linked(config: Mapping[str, Any], data_of: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """A configuration with numbers in place of the word in its `model`.

    Args:
        config: The configuration.
        data_of: Builds a data module of what is said of it; called only where the word stands.

    Raises:
        FileNotFoundError: If the data count classes or read shapes from files that are not there.
        ValueError: If there are no data, they are described wrongly, or do not say a number before they are read.
    """
    place = next(places(config.get("model"), ("model",)), None)
    if place is None:
        return dict(config)
    told = config.get("data")
    if not told:
        raise ValueError(f"{place} is `data`, and the configuration has no data: give it --data, or a number")
    data = data_of({"class_path": told} if isinstance(told, str) else told)
    return {**config, "model": stated(config["model"], data, ("model",))}


def stated(content: Any, data: object, path: tuple[str, ...] = ()) -> Any:
    """What is said of a part, with numbers in place of the word.

    Args:
        content: What a configuration says of it; it stays as it is.
        data: Has the numbers as attributes.
        path: The keys that lead to it.

    Raises:
        ValueError: If the data lack a number.
    """
    if isinstance(content, list):
        return [stated(item, data, path) for item in content]
    if not isinstance(content, Mapping):
        return content
    return {
        key: number(key, data, path) if is_word(key, item) else stated(item, data, (*path, key))
        for key, item in content.items()
    }


def number(key: str, data: object, path: tuple[str, ...]) -> int:
    """What the data say."""
    found = getattr(data, key, None)
    if found is None:
        raise ValueError(f"{dotted(path, key)} is `data`, and {type(data).__name__} does not say it: give a number")
    return found


def require_numbers(content: Any) -> None:
    """Raise ValueError if the word stands in what is said of a part that goes with no data."""
    if place := next(places(content, ()), None):
        raise ValueError(f"{place} is `data`, and here no data come with the network: give a number")


def places(content: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Where the word stands, in dots."""
    if isinstance(content, list):
        for item in content:
            yield from places(item, path)
    elif isinstance(content, Mapping):
        for key, item in content.items():
            if is_word(key, item):
                yield dotted(path, key)
            else:
                yield from places(item, (*path, key))


def is_word(key: str, value: object) -> bool:
    return value == WORD and key in LINKED


def dotted(path: tuple[str, ...], key: str) -> str:
    """A setting as it is written on a command line."""
    return ".".join([*(part for part in path if part != "init_args"), key])
