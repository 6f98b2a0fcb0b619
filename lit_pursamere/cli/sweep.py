"""A sweep in the file of a comparison: a row for every value of a setting.

    sweep:                                      # of every purifier; that of an entry takes its place there
      model.purifier.t_star: [0.05, 0.1, 0.2]   # an option of `test`, and its values
      NFE:                                      # or a name, and the options of `test` that each of its values means
        '5': {model.purifier.steps: 50}
        '10': {model.purifier.steps: 100}

Of several every combination is a row: "COUP t_star=0.05 NFE=5". `seed_everything` can be swept, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product

from lit_pursamere.report.places import Place

__all__ = ["Axes", "places_of", "read_sweep"]

SEED = "seed_everything"
Axes = dict[str, dict[str, dict[str, object]]]  # options by value, by the name of what is swept


def read_sweep(content: object, key: str, file: object, check: Callable[[str, str], None]) -> Axes:
    """Read a sweep.

    Args:
        content: What the file holds.
        key, file: Where it holds that, for messages.
        check: Raises ValueError for what is no option of `test`; gets the option and its place.

    Raises:
        ValueError: If something is not of its kind; the message names it.
    """
    entries = {str(name): values for name, values in mapping(content, f"{key} in {file}").items()}
    axes = {}
    for name, values in entries.items():
        place = f"{key}.{name} in {file}"
        if isinstance(values, dict):
            axes[name] = {
                str(value): mapping(options, f"{key}.{name}.{value} in {file}") for value, options in values.items()
            }
        elif isinstance(values, list):
            axes[short(name, entries)] = {text(value, place): {name: value} for value in values}
            if len({json.dumps(value) for value in values}) < len(values):
                raise ValueError(f"{place}: a value stands there twice in {values}")
        else:
            raise ValueError(f"{place} must be a list of values, or options of `test` by value; got {values!r}")
        if not values:
            raise ValueError(f"{place} names no value")
    for name, points in axes.items():
        for option in dict.fromkeys(option for options in points.values() for option in options):
            if option != SEED:
                check(option, f"{key}.{name} in {file}")
    return axes


def places_of(purifier: str, axes: Axes) -> Iterator[tuple[str, Place]]:
    """The rows of a purifier: their names and places, every combination of values once."""
    for values in product(*axes.values()):
        at = dict(zip(axes, values, strict=True))
        options = {key: given for name, value in at.items() for key, given in axes[name][value].items()}
        yield " ".join([purifier, *(f"{name}={value}" for name, value in at.items())]), Place(purifier, at, options)


def short(option: str, others: dict[str, object]) -> str:
    """The end of an option that tells it from the others: `eot`, or `exact20.eot`."""
    parts = option.split(".")
    ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
    return next((end for end in ends if sum(f".{other}".endswith(f".{end}") for other in others) == 1), option)


def text(value: object, where: str) -> str:
    """A value as names have it.

    Raises:
        ValueError: If it has parts, or is a path.
    """
    if isinstance(value, dict | list) or "/" in str(value):
        raise ValueError(
            f"{where}: {value!r} cannot be part of a row's name; write NAME: {{VALUE: {{OPTION: ...}}}} in its place"
        )
    return value if isinstance(value, str) else json.dumps(value)


def mapping(value: object, where: str) -> dict:
    """The value, if it is a mapping; else ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be a mapping (`key: value` lines); got {value!r}")
    return value
