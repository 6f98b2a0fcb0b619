"""What a check looks at: a defence, the attack that is on trial, and images that the defence gets right.

    broken(a)  images on which the defence errs at a's last or first fooling iterate
    gained(a)  of those that the attack on trial left, the ones that `a` breaks: what the trial attack missed

Attacks are run once: verdicts are kept by the attack's value, and in a file if there is one, so that an audit that
was stopped goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.audit.base import Trial
from lit_pursamere.defense import Defense
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import Identity
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store.atomic import write_whole

__all__ = ["Examination", "Finding", "NotApplicable", "Verdict", "variant"]

Verdict = Literal["fail", "doubt", "pass", "n/a"]


@dataclass(frozen=True)
class Finding:
    """The outcome of a check: `fail` contradicts a working attack, `doubt` leans that way, `n/a` could not be asked."""

    verdict: Verdict
    detail: str


class NotApplicable(Exception):
    """Why a check cannot be made of this defence and attack."""


def variant(attack: Attack, **changes: Any) -> Attack:
    """The attack with other settings.

    Raises:
        NotApplicable: If it lacks one of them.
    """
    known = {setting.name for setting in fields(attack) if setting.init}
    if missing := sorted(changes.keys() - known):
        raise NotApplicable(f"{type(attack).__name__} has no setting {', '.join(missing)}")
    return replace(attack, **changes)


def read_verdicts(store: Path) -> dict[str, list]:
    """Verdicts of an audit that was stopped, by the question that was asked.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        verdicts = json.loads(store.read_text(encoding="utf-8"))
        for value in verdicts.values():
            torch.tensor(value, dtype=torch.bool)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{store} is damaged ({error}); remove it, and start the audit again") from None
    return verdicts


class Examination:
    """A defence under an attack on trial.

    Args:
        trial: Both, and the images.
        queries: Evaluations per image that attacks without gradients may spend.
        planted: Images of the binarization test.
        store: JSON file of verdicts, read first and written after every attack (None: none).
        progress: Shows the steps of the attacks (None: nobody does).

    Only images that every evaluation gets right are kept, as `x` and `y`; `index` says which ones. An image counts as
    broken if more than half of its evaluations are wrong. Each question has draws of its own, made from the trial's
    seed, so an audit that was stopped finds what one that was not finds.

    Raises:
        ValueError: If no image is left, or the file holds verdicts on other images.
    """

    def __init__(
        self, trial: Trial, queries: int = 200, planted: int = 16, store: Path | None = None,
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.name, self.defense, self.attack, x, y = trial.name, trial.defense, trial.attack, trial.x, trial.y
        self.evaluations, self.batch, self.seed = trial.evaluations, trial.batch, trial.seed
        self.queries, self.planted = queries, planted
        self.progress = progress or Progress("audit", "check", hidden=True)
        self.undefended = Defense(Identity(), self.defense.classifier)
        self.store, self.verdicts = store, {}
        if store is not None and store.is_file():
            self.verdicts = read_verdicts(store)
        self.index = self.remember("correct", lambda: self._right(self.defense, x, y, every=True)).nonzero().flatten()
        if not len(self.index):
            raise ValueError(f"the defence gets none of the {len(x)} images right; there is nothing to attack")
        self.clean_accuracy = len(self.index) / len(x)
        self.x, self.y = x[self.index.to(x.device)], y[self.index.to(y.device)]
        self.fallen = torch.zeros(len(self.x), dtype=torch.bool)  # to any attack within the budget so far

    def __len__(self) -> int:
        return len(self.x)

    def broken(self, attack: Attack, undefended: bool = False) -> Tensor:
        """Which images an attack breaks, (B,)."""
        return self._attacked(attack, undefended, torch.ones(len(self), dtype=torch.bool))["any"]

    def broken_last(self, attack: Attack) -> Tensor:
        """Which images an attack breaks with its last iterate, (B,)."""
        return self._attacked(attack, False, torch.ones(len(self), dtype=torch.bool))["last"]

    @property
    def left(self) -> Tensor:
        """Which images the attack on trial leaves, (B,)."""
        return ~self.broken(self.attack)

    def gained(self, attack: Attack) -> Tensor:
        """Which images another attack breaks that the attack on trial leaves, (B,)."""
        gained = self._attacked(attack, False, self.left)["any"] & self.left
        self.fallen |= gained | ~self.left
        return gained

    def _attacked(self, attack: Attack, undefended: bool, wanted: Tensor) -> dict[str, Tensor]:
        """Verdicts by iterate; images that are not wanted are not attacked, and count as not broken."""
        system = "undefended" if undefended else "defence"
        which = torch.nonzero(wanted).flatten()
        key = f"{system} {attack!r} on {''.join('1' if w else '0' for w in wanted.tolist())}"
        found = self.remember(key, lambda: self._run(attack, undefended, which))
        spread = torch.zeros(2, len(self), dtype=torch.bool)
        spread[:, which] = found.reshape(2, -1)
        return {"last": spread[0], "any": spread[0] | spread[1]}

    def _run(self, attack: Attack, undefended: bool, which: Tensor) -> Tensor:
        defense = self.undefended if undefended else self.defense
        view, wrong = defense.view(attack.view), []
        groups = which.split(self.batch) if len(which) else ()
        with self.progress.inside(f"{type(attack).__name__} {attack.threat} {attack.view}", "step") as steps:
            for i, group in enumerate(groups):

                def progress(done: int, total: int, i: int = i) -> None:
                    steps(i * total + done, len(groups) * total)

                x, y = self.x[group], self.y[group]
                outcome = attack(view, x, y, progress)
                wrong.append(torch.stack([~self._right(defense, images, y) for images in outcome[:2]]))
        return torch.cat(wrong, dim=1) if wrong else torch.zeros(2, 0, dtype=torch.bool)

    @torch.no_grad()
    def _right(self, defense: Defense, x: Tensor, y: Tensor, every: bool = False) -> Tensor:
        """Whether the defence is right most of the time, or every time, (B,) on the CPU."""
        hits: Any = sum(
            torch.cat([defense(images).argmax(1) == labels for images, labels in self._groups(x, y)]).long()
            for _ in range(self.evaluations)
        )
        return (hits == self.evaluations if every else 2 * hits >= self.evaluations).cpu()

    def _groups(self, x: Tensor, y: Tensor) -> zip:
        return zip(x.split(self.batch), y.split(self.batch), strict=True)

    def remember(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """Flags under this key, computed once."""
        if key not in self.verdicts:
            with forked_randomness(self.seed, key):
                self.verdicts[key] = compute().tolist()
            if self.store is not None:
                write_whole(self.store, json.dumps(self.verdicts).encode())
        return torch.tensor(self.verdicts[key], dtype=torch.bool)
