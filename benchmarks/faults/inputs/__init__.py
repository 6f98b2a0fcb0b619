"""Bad inputs: what is called, what its one line must name (a regular expression), how the folder is spoilt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Bad", "table"]


@dataclass(frozen=True)
class Bad:
    """A bad input.

    Args:
        name: Room and number.
        line: The command, see `world.words`.
        named: What its one line must match: the value or the place.
        setup: Spoils a copy of the world (None: the command alone is the mistake).
        environment: Variables, `A=1 B=2`.
    """

    name: str
    line: str
    named: str
    setup: Callable[[Path], object] | None = None
    environment: str = ""


def table() -> list[Bad]:
    """All bad inputs."""
    from benchmarks.faults.inputs import configurations, data, folders, settings, weights, words

    rooms = (words, settings, configurations, folders, weights, data)
    return [
        Bad(f"{room.__name__.rpartition('.')[2]} {number}", *row)
        for room in rooms
        for number, row in enumerate(room.ROWS, start=1)
    ]
