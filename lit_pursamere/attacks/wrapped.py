"""Attacks of other libraries as they are: of torchattacks, of foolbox, or any class with the interface of either.

    torchattacks    attack = CLASS(model, **arguments);  x_adv = attack(x, y)
    foolbox         attack = CLASS(**arguments);         x_adv = attack.run(model, x, criterion)

    Wrapped.of(torchattacks.PGD, view="exact", steps=20)

What an image is kept as, see survivors.py, which also says what settings all of them have.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.attacks.base import View
from lit_pursamere.attacks.foolbox_attacks import quiet_import, search
from lit_pursamere.attacks.library import LibraryView, fingerprint, require
from lit_pursamere.attacks.survivors import Run, SurvivorAttack
from lit_pursamere.seeding import kept_randomness
from lit_pursamere.threat import ThreatModel, over_images

__all__ = ["Wrapped"]

FRACTION = re.compile(r"(\d+(?:\.\d+)?)/(\d+(?:\.\d+)?)")
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}  # as torchattacks calls them
RELATIVE = 1e-6  # by which an `eps` may differ from the budget's, being the same number


@dataclass(frozen=True)
class Wrapped(SurvivorAttack):
    """An attack of another library within this budget, on this view.

    What the library's attack takes of `eps`, `norm`, `n_classes` (torchattacks) or `epsilon` (foolbox) is that of the
    budget and the view. An attack whose norm is in its name, `PGDL2`, is for budgets in that norm. What is returned
    beyond the budget is projected. It draws from torch, numpy and random, seeded by `seed` and the batch.

    Args:
        wrapped: The class, by its name: `torchattacks.PGD`, `foolbox.attacks.LinfPGD`; or itself.
        arguments: What it is built with, but for the model and `eps`; "2/255" is a number.

    Raises:
        ValueError: If there is no such class, or an `eps` among the arguments is not the budget's.
        ImportError: If its library is not installed.
    """

    wrapped: Any = "torchattacks.PGD"
    arguments: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        wrapped: type | str,
        threat: ThreatModel | None = None,
        view: View = "bpda",
        evaluations: int = 20,
        **arguments: Any,
    ) -> Wrapped:
        """The attack with its own arguments by name: `Wrapped.of(torchattacks.PGD, view="exact", steps=20)`."""
        return cls(threat=threat, view=view, evaluations=evaluations, wrapped=wrapped, arguments=arguments)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.wrapped, type):
            name = f"{self.wrapped.__module__}.{self.wrapped.__qualname__}"
            importable = "<" not in name and self.wrapped.__module__ != "__main__"
            object.__setattr__(self, "wrapped", name if importable and located(name) is self.wrapped else self.wrapped)
        elif not isinstance(self.wrapped, str) or "." not in self.wrapped:
            raise ValueError(f"Wrapped needs a class such as torchattacks.PGD; got {self.wrapped!r}")

    def runs(self, view: LibraryView) -> list[Run]:
        kind = located(self.wrapped) if isinstance(self.wrapped, str) else self.wrapped
        given = {name: number(value) for name, value in self.arguments.items()}
        eps = given.get("eps", float(self.budget.eps))
        if abs(eps - self.budget.eps) > RELATIVE * self.budget.eps:
            raise ValueError(f"{kind.__name__} is given eps={eps:g}, and the budget is {self.budget}; leave eps out")
        steps = given.get("steps", 1)
        return [Run(steps if isinstance(steps, int) else 1, partial(self._attempt, kind, given, view))]

    def _attempt(self, kind: Any, given: dict[str, Any], view: LibraryView, x: Tensor, y: Tensor) -> list[Tensor]:
        with all_seeded(self.seed, fingerprint(x)), contextlib.redirect_stdout(io.StringIO()):  # libraries print
            if hasattr(kind, "run"):
                attack, limited = built(kind, given), "epsilon" in inspect.signature(kind.run).parameters
                return [search(attack, view, x, y, **({"epsilon": self.budget.eps} if limited else {}))[0]]
            known = {"eps": float(self.budget.eps), "norm": NORMS[self.budget.norm], "n_classes": view.classes}
            own = {name: value for name, value in known.items() if name in inspect.signature(kind).parameters}
            attack = built(kind, {**own, **given}, view)
            if hasattr(attack, "set_device"):  # it looks at the model's parameters, of which a view has none
                attack.set_device(x.device)
            return [attack(x, y)]

    def _feasible(self, candidate: Tensor, x: Tensor) -> Tensor:
        """The candidate, projected; x itself where it is not a number."""
        number_ = torch.isfinite(candidate).flatten(1).all(1)
        return torch.where(over_images(number_, x), self.budget.project(candidate.nan_to_num(), x), x)


def located(name: str) -> Any:
    """What a dotted name stands for.

    Raises:
        ImportError: If its library is not installed.
        ValueError: If the library has nothing of that name.
    """
    package = name.partition(".")[0]
    with quiet_import():
        found: Any = require(package, package)
        for part in name.split(".")[1:]:
            inner = getattr(found, part, None)
            if inner is None and inspect.ismodule(found):
                with contextlib.suppress(ImportError):
                    inner = import_module(f"{found.__name__}.{part}")
            if inner is None:
                raise ValueError(f"{package} has no {name.partition('.')[2]}: there is no {part!r}")
            found = inner
    return found


def built(kind: Any, arguments: dict[str, Any], *model: Any) -> Any:
    """An attack of its class; raises a ValueError if it does not take the arguments."""
    try:
        return kind(*model, **arguments)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} cannot be built with {arguments}: {error}") from error


def number(value: Any) -> Any:
    """A fraction that was written as text, as a number; anything else as it is."""
    fraction = FRACTION.fullmatch(value) if isinstance(value, str) else None
    return value if fraction is None else float(fraction[1]) / float(fraction[2])


@contextlib.contextmanager
def all_seeded(*key: int) -> Iterator[None]:
    """Seed what libraries draw from beside torch; afterwards it is as it was."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    with kept_randomness():
        np.random.seed(seed)
        random.seed(seed)
        yield
