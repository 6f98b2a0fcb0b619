"""AutoAttack: four attacks in turn, each on the images that those before have left.

Reference: "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks" (Croce and
Hein, 2020); for views with randomness, a decision by the mean of 20 draws instead of one.

    standard:  APGD on cross-entropy, APGD on targeted DLR, targeted FAB, Square
    rand:      APGD on cross-entropy and on DLR, gradients averaged over 20 draws
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lit_pursamere.attacks.autoattack_parts import APGD, FAB, Square
from lit_pursamere.attacks.library import LibraryView
from lit_pursamere.attacks.survivors import Run, SurvivorAttack, at_least_one

__all__ = ["AutoAttack"]


@dataclass(frozen=True)
class AutoAttack(SurvivorAttack):
    """The ensemble, each attack on the images that those before have left; all other settings are those of its parts.

    Args:
        version: `standard`, or `rand` for views with randomness.
        eot: Draws of the view whose gradients are averaged in a step of APGD, and whose margins at a query of Square
            (None: 20 in `rand`, else 1).
        steps: Steps of APGD and FAB.
        queries: Points that Square tries.
        eot_chunk: As in APGD and Square.

    Raises:
        ValueError: If the view has fewer classes than DLR needs: 4 for `standard`, 3 for `rand`.
    """

    version: Literal["standard", "rand"] = "standard"
    eot: int | None = None
    steps: int = 100
    queries: int = 5000
    eot_chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.version not in ("standard", "rand"):
            raise ValueError(f"version must be 'standard' or 'rand'; got {self.version!r}")
        at_least_one(self, "eot", "steps", "queries", "eot_chunk")

    def parts(self) -> list[SurvivorAttack]:
        """The attacks in their order."""
        base = (self.threat, self.view, self.seed, self.evaluations, self.decision)
        eot, chunk = self.eot or (20 if self.version == "rand" else 1), self.eot_chunk
        if self.version == "rand":
            once: Any = {"steps": self.steps, "restarts": 1, "eot": eot, "eot_chunk": chunk, "large_eps": False}
            return [APGD(*base, loss="ce", **once), APGD(*base, loss="dlr", **once)]
        return [
            APGD(*base, loss="ce", steps=self.steps, eot=eot, eot_chunk=chunk),
            APGD(*base, loss="dlr-t", steps=self.steps, eot=eot, eot_chunk=chunk),
            FAB(*base, steps=self.steps),
            Square(*base, queries=self.queries, eot=eot, eot_chunk=chunk),
        ]

    def runs(self, view: LibraryView) -> list[Run]:
        return [run for part in self.parts() for run in part.runs(view)]
