"""What every look at a walk has in common: which images, and where what was seen is written."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from lit_pursamere.attacks import Attack
from lit_pursamere.audit.base import Answer, choose_attack
from lit_pursamere.defense import Defense
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.provenance import command, package_versions
from lit_pursamere.walk.kept import Kept

__all__ = ["Walk"]


@dataclass(frozen=True)
class Walk(ABC):
    """Something that is asked of purifications on their way.

    Args:
        attack: Name of the attack among the configured ones (None: the last one that sees the purifier).
        broken: Whether to look only at images on which the purifier that the attack looks at ends wrong.

    Raises:
        ValueError: If a number is too small.
    """

    attack: str | None = None
    broken: bool = False

    least: ClassVar[dict[str, int]] = {}

    def __post_init__(self) -> None:
        for name, least in self.least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{type(self).__name__} needs {name} >= {least}; got {getattr(self, name)}")

    def check(self, defense: Defense, attacks: Mapping[str, Attack]) -> None:
        """Refuse a defence and its attacks by themselves, before any image is attacked.

        Raises:
            ValueError: If there is no such attack, or the defence lacks what is looked at.
        """
        choose_attack(self.attack, dict(attacks))

    @abstractmethod
    def run(self, kept: Kept, folder: Path) -> Answer:
        """Look, write what was seen into the folder as figure and JSON, and return it as a table.

        Raises:
            ValueError: If it does not apply to these images.
            OSError: If nothing can be written there.
        """

    @property
    def name(self) -> str:
        """Name of its files, without ending."""
        return type(self).__name__.lower()

    def chosen(self, kept: Kept, least: int = 1) -> tuple[str, Kept]:
        """The attack that is meant, and the images that are looked at.

        Raises:
            ValueError: If there is no such attack, or there are too few images.
        """
        attack = choose_attack(self.attack, dict(kept.attacks))
        if self.broken:
            end = kept.probabilities(kept.attacked(attack), attack)[-1].argmax(1)
            kept = kept.only((end != kept.y.cpu()).nonzero().flatten())
        if len(kept.y) < least:
            what = f"images that {attack} breaks" if self.broken else "images"
            raise ValueError(f"{type(self).__name__} needs at least {least} {what}; there are {len(kept.y)}")
        return attack, kept

    def save(self, kept: Kept, folder: Path, **found: Any) -> None:
        """Write what was seen, and what it depends on, as FOLDER/NAME.json."""
        made = {"command": command(), "versions": package_versions()}
        record = {"asked": {"class": type(self).__name__, **asdict(self)}, **kept.settings, **found, **made}
        write_whole(folder / f"{self.name}.json", (json.dumps(record, indent=1) + "\n").encode())
