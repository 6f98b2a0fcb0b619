"""Where a row of a comparison stands in a sweep: which values it has of what is swept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Place", "swept", "varied"]


@dataclass(frozen=True)
class Place:
    """Where a row stands.

    Args:
        purifier: What rows of one curve have in common: the name of their entry.
        values: The row's value as text, by the name of what is swept; "0.05" by "t_star".
        options: The options of `test` by which it has them.
    """

    purifier: str
    values: dict[str, str]
    options: dict[str, object]

    def curve(self, axis: str) -> str:
        """Name of the curve over `axis` that the row is a point of."""
        return " ".join([self.purifier, *(f"{name}={value}" for name, value in self.values.items() if name != axis)])


def swept(places: Iterable[Place]) -> list[str]:
    """Names of what has several values."""
    places = list(places)
    names = dict.fromkeys(name for place in places for name in place.values)
    return [name for name in names if len({place.values[name] for place in places if name in place.values}) > 1]


def varied(places: Iterable[Place]) -> set[str]:
    """The settings that rows differ in by design, by the last part of their names: "eps" of model.threat.eps."""
    return {option.rpartition(".")[2] for place in places for option in place.options}
