"""What the entries of a manifest must be, for readers that compute with them: a folder may come from anyone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

__all__ = ["damaged", "lacking"]

Kind = Callable[[Any], bool]


def is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**31 and math.isfinite(value)


def is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def is_side(value: Any) -> bool:
    return is_count(value) and value < 2**16


def either(*kinds: Kind) -> Kind:
    return lambda value: any(kind(value) for kind in kinds)


def is_none(value: Any) -> bool:
    return value is None


def each(kind: Kind) -> Kind:
    """Entries of any names, all of one kind."""
    return lambda value: is_mapping(value) and all(map(kind, value.values()))


def every(kind: Kind, count: int | None = None) -> Kind:
    """A list of so many (None: any number) values of a kind."""
    return lambda value: isinstance(value, list) and count in (None, len(value)) and all(map(kind, value))


def having(**kinds: Kind) -> Kind:
    """Entries of any names, of which these are of their kinds where they stand."""
    return lambda value: is_mapping(value) and all(kinds[name](value[name]) for name in kinds.keys() & value.keys())


THREAT = having(norm=is_text, eps=is_number)
ATTACK = having(
    **{"class": is_text},
    view=either(is_text, is_none),
    threat=either(THREAT, is_none),
    steps=either(is_number, is_none),
)
ENTRIES: dict[str, Kind] = {
    "attacks": each(ATTACK),
    "certification": having(sigmas=every(is_number), n0=is_count, n=is_count, alpha=is_number),
    "data": is_text,
    "defenses": each(having(purifier=is_mapping)),
    "dtype": is_text,
    "evaluations": is_count,
    "images": having(count=is_count, shape=every(is_side, 3), digest=is_text, indices=is_text),
    "part": is_count,
    "precision": is_text,
    "purifier": is_mapping,
    "slots": is_count,
    "source": either(is_text, having(count=is_count, means=every(is_number))),
    "split": is_text,
    "success": is_text,
    "systems": each(is_text),
    "threshold": either(is_number, is_none, every(is_number)),  # of a detector, or of several
    "weights": either(is_text, each(is_text)),
}


def damaged(manifest: dict) -> str | None:
    """The first entry that is of another kind than its name says, "part: 'two'"; None if there is none."""
    wrong = (name for name in sorted(ENTRIES.keys() & manifest.keys()) if not ENTRIES[name](manifest[name]))
    return next((f"{name}: {str(manifest[name])[:60]!r}" for name in wrong), None)


def lacking(manifest: dict, names: tuple[str, ...]) -> list[str]:
    """Which of these entries, "images.count" within others, a manifest does not state."""

    def states(name: str) -> bool:
        outer, _, inner = name.partition(".")
        value = manifest.get(outer)
        return outer in manifest and (not inner or (isinstance(value, dict) and inner in value))

    return [name for name in names if not states(name)]
