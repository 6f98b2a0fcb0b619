"""Attacks of the MNIST evaluations: Carlini-Wagner, EAD and Boundary by the package foolbox, salt and pepper by hand.

References: "Towards Evaluating the Robustness of Neural Networks" (Carlini and Wagner, 2017); "EAD: Elastic-Net Attacks
to Deep Neural Networks via Adversarial Examples" (Chen et al., 2018); "Decision-Based Adversarial Attacks" (Brendel et
al., 2018).

All look for the nearest wrong image, or for any; what is kept must be within the budget, see survivors.py, which also
says what settings all of them have. The package returns black images where it fails, and gives up a whole batch if one
image has no starting point.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_pursamere.attacks.library import LibraryView, fingerprint, require
from lit_pursamere.attacks.survivors import Run, SurvivorAttack, at_least_one
from lit_pursamere.seeding import generator
from lit_pursamere.threat import over_images

__all__ = ["EAD", "Boundary", "CarliniWagnerL2", "SaltAndPepper", "quiet_import", "search"]

PACKAGE = "foolbox"
SEARCH_STEPS = 9  # of EAD as published
RHO = 0.25  # of salt and pepper as published
BISECTIONS = 10  # of the line from an image to a starting point of Boundary


@dataclass(frozen=True)
class CarliniWagnerL2(SurvivorAttack):
    """Minimise |delta|^2 + c * max(0, z_y - max of the other logits + kappa) by Adam, through a tanh into the box.

    Args:
        steps: Steps per search step.
        step_size: Step size of Adam, in the space before the tanh. None: 0.1, as published, or less, so that a step
            does not take a grey image out of the budget.
        constant: First c; 10 times as large wherever it was too small, if there is another search step.
        search_steps: Search steps for the smallest c.
        confidence: kappa, in logits.
    """

    steps: int = 1000
    step_size: float | None = None
    constant: float = 100.0
    search_steps: int = 1
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "steps", "search_steps")
        _positive(self, "step_size", "constant")

    def runs(self, view: LibraryView) -> list[Run]:
        def descend(x: Tensor, y: Tensor) -> list[Tensor]:
            attack = _foolbox().attacks.L2CarliniWagnerAttack(
                binary_search_steps=self.search_steps,
                steps=self.steps,
                stepsize=self.step_size or self._step_within_budget(x),
                confidence=self.confidence,
                initial_const=self.constant,
                abort_early=False,  # it would look at the loss of the whole batch
            )
            return search(attack, view, x, y)

        return [Run(self.search_steps * self.steps, descend)]

    def _step_within_budget(self, x: Tensor) -> float:
        """Adam moves every pixel alike at first, a grey one by half a step."""
        pixel = self.budget.eps if self.budget.norm == "linf" else self.budget.eps / math.sqrt(x[0].numel())
        return min(0.1, 2 * pixel)


@dataclass(frozen=True)
class EAD(SurvivorAttack):
    """Minimise c * f + |delta|_2^2 + beta * |delta|_1 by iterative shrinkage, f as in Carlini and Wagner's attack.

    Args:
        steps: Steps per search step.
        step_size: First step size, [0, 1] pixel units; falls as a square root to 0.
        constant: First c; 10 times as large wherever it was too small. None: 0.01, as published, with the 9 published
            search steps; 10 times as much for every 3 fewer, up to 1: at a c that moves no pixel a step is lost.
        search_steps: Search steps for the smallest c.
        beta: Weight of the l1 norm.
        confidence: kappa, in logits.
    """

    steps: int = 100
    step_size: float = 0.01
    constant: float | None = None
    search_steps: int = SEARCH_STEPS
    beta: float = 0.01
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "steps", "search_steps")
        _positive(self, "step_size", "constant", "beta")

    @property
    def first_constant(self) -> float:
        """The first c."""
        fewer = min(max(SEARCH_STEPS - self.search_steps, 0), 6)
        return self.constant or 0.01 * 10 ** (fewer / 3)

    def runs(self, view: LibraryView) -> list[Run]:
        attack = _foolbox().attacks.EADAttack(
            binary_search_steps=self.search_steps,
            steps=self.steps,
            initial_stepsize=self.step_size,
            confidence=self.confidence,
            initial_const=self.first_constant,
            regularization=self.beta,
            decision_rule="EN",
            abort_early=False,  # it would look at the loss of the whole batch
        )
        return [Run(2 * self.search_steps * self.steps, partial(search, attack, view))]


@dataclass(frozen=True)
class Boundary(SurvivorAttack):
    """Walk along the decision boundary towards the image, from where the line to a random image meets it.

    Needs classes only. Images for which no starting point is found are left as they are.

    Args:
        steps: Steps of the walk.
        spherical_step: First step around the image, as a part of the distance.
        source_step: First step towards the image, as a part of the distance.
        adaptation: Factor by which steps grow or shrink.
        starts: Images of uniform noise that are tried as starting points; a point counts if the view misclassifies
            it in more than half of the draws.
    """

    steps: int = 5000
    spherical_step: float = 0.01
    source_step: float = 0.01
    adaptation: float = 1.5
    starts: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "steps", "starts")
        _positive(self, "spherical_step", "source_step", "adaptation")

    def runs(self, view: LibraryView) -> list[Run]:
        attack = _foolbox().attacks.BoundaryAttack(
            steps=self.steps,
            spherical_step=self.spherical_step,
            source_step=self.source_step,
            step_adaptation=self.adaptation,
        )

        @torch.no_grad()
        def walk(x: Tensor, y: Tensor) -> list[Tensor]:
            start, found = self._starting_points(view, x, y)
            nearest = x.clone()
            if found.any():
                view.vouch((y[found] + 1) % view.classes)  # the package would check the starting points by one draw
                nearest[found] = search(attack, view, x[found], y[found], starting_points=start[found])[0]
            return [nearest]

        return [Run((self.starts + BISECTIONS) * view.draws.count + self.steps, walk)]

    def _starting_points(self, view: LibraryView, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """A wrong image on the line to the first noise image that is wrong, and whether there is one, (B,)."""
        torch.manual_seed(self.seed)
        start, found = x.clone(), torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for noise in torch.rand((self.starts, *x.shape[1:])).to(x).unsqueeze(1):
            wrong = mostly_wrong(view, noise, y)
            start = torch.where(over_images(wrong & ~found, x), noise, start)
            found |= wrong
            if found.all():
                break
        nearest = start
        low, high = torch.zeros_like(y, dtype=x.dtype), torch.ones_like(y, dtype=x.dtype)
        for _ in range(BISECTIONS if found.any() else 0):
            middle = (low + high) / 2
            point = torch.lerp(x, start, over_images(middle, x))
            wrong = mostly_wrong(view, point, y) & found
            nearest = torch.where(over_images(wrong, x), point, nearest)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return nearest, found


@dataclass(frozen=True)
class SaltAndPepper(SurvivorAttack):
    """Set random pixels to black or white; the best of several draws. The published noise knows no bound: linf 1.

    Args:
        rho: Probability that a pixel is set; black and white are equally likely. None: 0.25, as published, in the first
            draw, and more from draw to draw up to 1, so that few draws reach images that are far from a mistake, too.
        tries: Number of draws of the noise.
    """

    rho: float | None = None
    tries: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "tries")
        if self.rho is not None and not 0 <= self.rho <= 1:
            raise ValueError(f"SaltAndPepper needs rho in [0, 1], or none; got {self.rho}")

    def runs(self, view: LibraryView) -> list[Run]:
        def sprinkle(x: Tensor, y: Tensor, number: int) -> list[Tensor]:
            draws = [generator(self.seed, fingerprint(image), number) for image in x]  # by image, not by place
            shape = (2, 1, *x.shape[-2:])
            chosen, white = torch.stack([torch.rand(shape, generator=draw) for draw in draws], 1).to(x.device)
            rho = RHO + (1 - RHO) * number / max(self.tries - 1, 1) if self.rho is None else self.rho
            return [torch.where(chosen < rho, (white < 0.5).to(x), x)]

        return [Run(1, partial(sprinkle, number=number)) for number in range(self.tries)]


def search(attack: Any, view: LibraryView, x: Tensor, y: Tensor, **how: Any) -> list[Tensor]:
    """Nearest wrong images that an attack of foolbox finds; black ones where it finds none."""
    foolbox = _foolbox()
    model = foolbox.PyTorchModel(view, bounds=(0, 1), device=x.device)
    return [attack.run(model, x, foolbox.Misclassification(y), **how)]


def _foolbox() -> Any:
    with quiet_import():
        return require("foolbox", PACKAGE)


@contextmanager
def quiet_import() -> Iterator[None]:
    """The package imports GitPython, which refuses where there is no git unless told not to mind, and a moved name."""
    told = os.environ.get("GIT_PYTHON_REFRESH")
    os.environ["GIT_PYTHON_REFRESH"] = "quiet"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        if told is None:
            del os.environ["GIT_PYTHON_REFRESH"]
        else:
            os.environ["GIT_PYTHON_REFRESH"] = told


def mostly_wrong(view: LibraryView, x: Tensor, y: Tensor) -> Tensor:
    """Whether the view takes images (B, C, H, W), or one for all, for another class than y (B,) more often than not."""
    predictions = torch.stack([logits.argmax(1) for logits in view.draws.answers(view, x)])
    return (predictions != y).float().mean(0) > 0.5


def _positive(attack: SurvivorAttack, *names: str) -> None:
    for name in names:
        if getattr(attack, name) is not None and not getattr(attack, name) > 0:
            raise ValueError(f"{type(attack).__name__} needs {name} > 0; got {getattr(attack, name)}")
