"""The weights that have a name: what they are, whose, where they come from, and what is built around them.

`entries/*.yaml`, one per name:

    kind        score model, or classifier
    what        in a few words
    build       what takes the weights: a file of configs/, or a class with its arguments
    shipped     their file in checkpoints/; or
    files       url, name, size and sha256 of each, as far as they are known
    by_hand     how a person comes by them, where no program may
    licence     of the weights
    published   how good they are
    sources     on which page each of these was read

`entries/purifiers.yaml`: the score model of each purifier of configs/purifier/.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml

from lit_pursamere.names import meant

__all__ = ["Entry", "File", "entries", "find", "purifiers_at_hand", "score_model_of"]

FOLDER = Path(__file__).with_name("entries")
PURIFIERS = FOLDER / "purifiers.yaml"


@dataclass(frozen=True)
class File:
    """A file of an entry.

    Args:
        name: Its name on this machine.
        url: Where it is downloaded from; None: by hand.
        size: In bytes, if known.
        sha256: Hex digest, if known.
    """

    name: str
    url: str | None = None
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Entry:
    """Weights that have a name; see the top of this file for its fields."""

    name: str
    kind: Literal["score model", "classifier"]
    what: str
    build: str | dict[str, Any]
    files: tuple[File, ...]
    shipped: bool = False
    by_hand: str | None = None
    licence: str | None = None
    published: str | None = None
    sources: dict[str, str] | None = None

    @property
    def size(self) -> int | None:
        """Bytes of all its files, if all are known."""
        sizes = [file.size for file in self.files]
        return None if None in sizes else sum(filter(None, sizes))


@cache
def entries() -> dict[str, Entry]:
    """All entries by their names."""
    tables = [_read(file) for file in sorted(FOLDER.glob("*.yaml")) if file != PURIFIERS]
    return {name: _entry(name, facts) for table in tables for name, facts in table.items()}


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        ValueError: If there is none; the message says which was meant.
    """
    if name not in entries():
        raise ValueError(
            f"no weights are called {name!r}{meant(name, entries()) or '; lit-pursamere weights list shows all'}"
        )
    return entries()[name]


def score_model_of(purifier: str) -> dict[str, str] | None:
    """The score model that belongs to a purifier of configs/purifier/, and further settings of it; None: to none."""
    return _read(PURIFIERS).get(purifier)


def purifiers_at_hand() -> list[str]:
    """The purifiers of configs/purifier/ whose score model is part of the package."""
    return [name for name, own in _read(PURIFIERS).items() if find(own["score_model"]).shipped]


@cache
def _read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _entry(name: str, facts: dict[str, Any]) -> Entry:
    facts = dict(facts)
    if shipped := facts.pop("shipped", None):
        file = File(shipped, size=facts.pop("size"), sha256=facts.pop("sha256"))
        return Entry(name, files=(file,), shipped=True, **facts)
    files = tuple(_file(**file) for file in facts.pop("files"))
    return Entry(name, files=files, **facts)


def _file(url: str | None = None, name: str | None = None, **known: Any) -> File:
    return File(name or urlsplit(url or "").path.rpartition("/")[2], url, **known)
