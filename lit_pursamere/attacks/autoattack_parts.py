"""The attacks of AutoAttack, computed by the package pyautoattack: APGD, FAB and Square.

References: "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks" (APGD,
Croce and Hein, 2020); "Minimally distorted adversarial examples with a fast adaptive boundary attack" (FAB, Croce and
Hein, 2020); "Square Attack" (Andriushchenko et al., 2020); l1: "Mind the box" (Croce and Hein, 2021).

The package only proposes images, one random start at a time; what is kept is decided in survivors.py, which also says
what settings all of them have.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks.folded import FoldedView, mean_margin
from lit_pursamere.attacks.gradients import adversarial_loss, chunks
from lit_pursamere.attacks.library import LibraryView, require
from lit_pursamere.attacks.survivors import Run, SurvivorAttack, at_least_one

__all__ = ["APGD", "FAB", "Square"]

PACKAGE = "pyautoattack"
NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}  # as the package calls them
SILENT = logging.Logger("silent", logging.CRITICAL + 1)
LARGE_EPS = ((3, 0.3), (2, 0.3), (1, 0.4))  # l1: multiples of eps, and their shares of the steps
QUERIES = 5000  # of Square in AutoAttack, which runs the schedule made for 10,000 and stops halfway


@dataclass(frozen=True)
class APGD(SurvivorAttack):
    """Auto-PGD: PGD with momentum that halves its step and goes back to the best point when progress stalls.

    In l1 with `large_eps`, 30 % of the steps are made at 3 eps, 30 % at 2 eps and 40 % at eps.

    Args:
        loss: `ce` cross-entropy, `margin` the best other logit minus the true one, `dlr` the margin in units of the
            spread of the logits, `dlr-t` the same towards the likeliest other classes in turn.
        steps: Steps per restart.
        restarts: Random starts per loss, or per target (None: 5 for untargeted l1, else 1).
        targets: Number of target classes of `dlr-t` (None: 9, in l1 5); at most all the other classes.
        eot: Draws of the view whose gradients are averaged in a step; the step size follows the last one.
        eot_chunk: Draws per call of the view, of all images each; bounds memory, changes no result. None: all. The
            decision `original` makes them one by one, as the published code does.
        large_eps: Whether to start with larger radii, l1 only (None: in l1).

    Raises:
        ValueError: If the view has fewer classes than the loss needs: 3 for `dlr`, 4 for `dlr-t`.
    """

    loss: Literal["ce", "margin", "dlr", "dlr-t"] = "ce"
    steps: int = 100
    restarts: int | None = None
    targets: int | None = None
    eot: int = 1
    large_eps: bool | None = None
    eot_chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loss not in ("ce", "margin", "dlr", "dlr-t"):
            raise ValueError(f"loss must be 'ce', 'margin', 'dlr' or 'dlr-t'; got {self.loss!r}")
        at_least_one(self, "steps", "restarts", "targets", "eot", "eot_chunk")
        if self.large_eps and self.threat is not None and self.budget.norm != "l1":
            raise ValueError(f"large_eps is for l1 only; the norm is {self.budget.norm}")

    def runs(self, view: LibraryView) -> list[Run]:
        targeted, l1 = self.loss == "dlr-t", self.budget.norm == "l1"
        needed = {"ce": 2, "margin": 2, "dlr": 3, "dlr-t": 4}[self.loss]
        if view.classes < needed:
            others = ("ce", "margin", "dlr")[: min(view.classes, 3)]
            raise ValueError(
                f"the loss {self.loss} needs at least {needed} classes, the view has {view.classes}; run APGD with "
                f"loss {' or '.join(others)}, and in place of AutoAttack a WorstCase of it with FAB and Square"
            )
        restarts = self.restarts or (5 if l1 and not targeted else 1)
        targets = min(self.targets or (5 if l1 else 9), view.classes - 1) if targeted else 1
        large_eps = l1 if self.large_eps is None else self.large_eps
        fold = self.eot > 1 and self.decision == "mean"

        def raised(logits: Tensor, y: Tensor) -> Tensor:
            if targeted:
                return library.dlr_loss_targeted(logits, y)
            return library.dlr_loss(logits, y) if self.loss != "ce" else F.cross_entropy(logits, y, reduction="none")

        asked = FoldedView(view, self.eot, self.eot_chunk, raised) if fold else view
        library = self._library(asked, restarts, targets, large_eps)
        draws = len(asked.sizes) if isinstance(asked, FoldedView) else self.eot
        calls = (self.steps + (len(LARGE_EPS) if large_eps else 1)) * draws
        if self.decision == "original":
            return [Run(calls * restarts * targets, lambda x, y: [library.perturb(x, y)])]

        def restart(x: Tensor, y: Tensor, target: int, first: bool) -> list[Tensor]:
            library.init_hyperparam(x)
            if isinstance(asked, FoldedView):
                asked.labels = y
            if first:
                torch.manual_seed(self.seed)
            if targeted:
                with torch.no_grad():
                    library.y_target = _ranked(view(x), y, target)
            if large_eps:
                radii = [factor * library.eps_orig for factor, _ in LARGE_EPS]
                steps = [math.ceil(share * self.steps) for _, share in LARGE_EPS[:-1]]
                best, _, _, fooling = library.decr_eps_pgd(x, y, radii, [*steps, max(0, self.steps - sum(steps))])
            else:
                best, _, _, fooling = library.attack_single_run(x, y)
            return [fooling, best]

        attempts = product(range(1, targets + 1), range(restarts))
        return _in_turn(restart, calls, [{"target": target, "first": i == 0} for i, (target, _) in enumerate(attempts)])

    def _library(self, view: nn.Module, restarts: int, targets: int, large_eps: bool) -> Any:
        """The package's attack; a view that averages by itself is asked once a step."""
        module = require("pyautoattack.autopgd_base", PACKAGE)
        targeted = self.loss == "dlr-t"
        special = {"n_target_classes": targets} if targeted else {"loss": "ce" if self.loss == "ce" else "dlr"}
        library = (module.APGDAttack_targeted if targeted else module.APGDAttack)(
            view,
            n_iter=self.steps,
            norm=NORM[self.budget.norm],
            n_restarts=restarts,
            eps=float(self.budget.eps),
            seed=self.seed,
            eot_iter=1 if isinstance(view, FoldedView) else self.eot,
            use_largereps=large_eps,
            logger=SILENT,
            **special,
        )
        if self.loss == "margin":  # the package has no such loss: its DLR gives way
            library.dlr_loss = lambda logits, y: adversarial_loss(logits, y, "margin")
        return library


@dataclass(frozen=True)
class FAB(SurvivorAttack):
    """Fast adaptive boundary attack: looks for the nearest image of another class; kept if it is within eps.

    Args:
        targeted: Whether to go towards the likeliest other classes in turn, with one gradient per step; untargeted
            takes a gradient per class.
        steps: Steps per restart.
        restarts: Starts, or starts per target; the first is the image, the others are random.
        targets: Number of target classes; at most all the other classes.
    """

    targeted: bool = True
    steps: int = 100
    restarts: int = 1
    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "steps", "restarts", "targets")

    def runs(self, view: LibraryView) -> list[Run]:
        targets = min(self.targets, view.classes - 1) if self.targeted else 1
        library = require("pyautoattack.fab_pt", PACKAGE).FABAttack_PT(
            view,
            norm=NORM[self.budget.norm],
            n_restarts=self.restarts,
            n_iter=self.steps,
            eps=float(self.budget.eps),
            seed=self.seed,
            targeted=self.targeted,
            n_target_classes=targets,
        )
        calls = 2 * self.steps
        if self.decision == "original":
            return [Run(calls * self.restarts * targets, lambda x, y: [library.perturb(x, y)])]

        @torch.no_grad()
        def restart(x: Tensor, y: Tensor, target: int, number: int) -> list[Tensor]:
            if target == 1 and number == 0:
                torch.manual_seed(self.seed)
            library.target_class = target + 1  # the package counts the true class as the first
            view.vouch(y)
            return [library.attack_single_run(x, y, use_rand_start=number > 0, is_targeted=self.targeted)]

        attempts = product(range(1, targets + 1), range(self.restarts))
        return _in_turn(restart, calls, [{"target": target, "number": number} for target, number in attempts])


@dataclass(frozen=True)
class Square(SurvivorAttack):
    """Square Attack: random search by squares on the margin; needs logits only, no gradients.

    The search goes by the mean margin of `eot` draws per query, and ends for an image where that is not positive. With
    one draw, a view with randomness stops it at the first unlucky answer; what it has found by then still has to pass
    the decision.

    Args:
        queries: Points that are tried per restart. Squares shrink over all of them; at 5000 as in AutoAttack, which
            ends when half of that is done.
        restarts: Random starts.
        eot: Draws of the view whose margins are averaged at a point; each is an evaluation.
        eot_chunk: Draws per call of the view, of all images each; bounds memory, changes no result. None: all.

    Raises:
        ValueError: If the images are smaller than 5 pixels (l2, l1).
    """

    queries: int = QUERIES
    restarts: int = 1
    eot: int = 1
    eot_chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "queries", "restarts", "eot", "eot_chunk")

    def runs(self, view: LibraryView) -> list[Run]:
        library = require("pyautoattack.square", PACKAGE).SquareAttack(
            view,
            norm=NORM[self.budget.norm],
            n_queries=self.queries,
            eps=float(self.budget.eps),
            n_restarts=self.restarts,
            seed=self.seed,
            resc_schedule=self.queries != QUERIES,
        )

        def margin_and_loss(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            margin = -mean_margin(view, x, y, self.eot, self.eot_chunk)
            return margin, margin.clone()  # the package writes into both

        library.margin_and_loss = margin_and_loss

        @torch.no_grad()
        def restart(x: Tensor, y: Tensor, number: int) -> list[Tensor]:
            if self.budget.norm != "linf" and min(x.shape[-2:]) < 5:
                raise ValueError(f"Square in {self.budget.norm} needs images of 5x5 pixels at least; got {x.shape}")
            if self.decision == "original":
                return [library.perturb(x, y)]
            library.init_hyperparam(x)
            if number == 0:
                torch.manual_seed(self.seed)
            return [library.attack_single_run(x, y)[1]]

        calls = (self.queries + 1) * len(chunks(self.eot, self.eot_chunk))
        if self.decision == "original":
            return [Run(calls * self.restarts, lambda x, y: restart(x, y, 0))]
        return _in_turn(restart, calls, [{"number": number} for number in range(self.restarts)])


def _ranked(logits: Tensor, y: Tensor, rank: int) -> Tensor:
    """The class of this rank among all others than y (B,), by logits (B, K); rank 1 is the likeliest."""
    others = logits.scatter(1, y[:, None], -math.inf)
    return others.argsort(dim=1, descending=True)[:, rank - 1]


def _in_turn(restart: Callable[..., list[Tensor]], calls: int, settings: list[dict[str, Any]]) -> list[Run]:
    """One run per setting of a restart."""
    return [Run(calls, partial(restart, **chosen)) for chosen in settings]
