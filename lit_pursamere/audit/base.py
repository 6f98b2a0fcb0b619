"""What is audited, and what every audit has in common: it asks something of a defence under one of its attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.defense import Defense
from lit_pursamere.weights import state_digest

__all__ = ["Answer", "Audit", "Trial", "choose_attack"]


class Answer(NamedTuple):
    """What an audit found, in Markdown, and the short of it; empty if there is no short of it."""

    text: str
    headline: str = ""


@dataclass(frozen=True, eq=False)
class Trial:
    """A defence, the attack that is on trial, and images.

    Args:
        defense: The defence.
        name: Name of the attack.
        attack: The attack.
        x: Images (B, C, H, W) in [0, 1].
        y: Their classes (B,).
        index: Their positions in the data set.
        data: Name of the data set and split.
        evaluations: Verdicts per image.
        batch: Images, or draws, per forward pass.
        seed: Seed of random points and of noise that is drawn anew.
        precision: That of weights and forward passes, as Lightning calls it.
        hidden: Whether to keep progress to oneself.
    """

    defense: Defense
    name: str
    attack: Attack
    x: Tensor
    y: Tensor
    index: Sequence[int] = ()
    data: str = ""
    evaluations: int = 1
    batch: int = 64
    seed: int = 0
    precision: str = "32-true"
    hidden: bool = True


@dataclass(frozen=True)
class Audit(ABC):
    """A question about an attack on a defence, and how much its answer may cost.

    Args:
        attack: Name of the attack among the configured ones (None: the last one that sees the purifier).
        images: Number of images, the first ones.
        output: Folder of the answer, from which an audit that was stopped goes on.

    Raises:
        ValueError: If a number is too small.
    """

    attack: str | None = None
    images: int = 32
    output: str = "runs/audit"

    least: ClassVar[dict[str, int]] = {"images": 1}

    def __post_init__(self) -> None:
        for name, least in self.least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{type(self).__name__} needs {name} >= {least}; got {getattr(self, name)}")

    @abstractmethod
    def run(self, trial: Trial) -> Answer:
        """Answer the question, write the answer into the output folder, and return it.

        Raises:
            ValueError: If it does not apply to the defence, or the folder holds another audit.
            OSError: If another run is writing there.
        """

    def manifest(self, trial: Trial) -> dict[str, object]:
        """What decides the answer; a folder belongs to exactly one of these."""
        return {
            "attack": trial.attack.settings,
            "defense": trial.defense.settings,
            "weights": state_digest(trial.defense),
            "data": trial.data,
            "precision": trial.precision,
        }


def choose_attack(name: str | None, attacks: dict[str, Attack]) -> str:
    """Name of the attack that is meant: the last one that sees the purifier, if none is named.

    Raises:
        ValueError: If there is no such attack.
    """
    if not attacks:
        raise ValueError("an attack is needed; the configuration has none")
    if name is None:
        seeing = [name for name, attack in attacks.items() if attack.view != "gray"]
        return (seeing or list(attacks))[-1]
    if name not in attacks:
        raise ValueError(f"the configuration has no attack {name!r}; it has {', '.join(attacks)}")
    return name
