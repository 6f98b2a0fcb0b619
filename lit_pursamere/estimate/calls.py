"""Counting: how often a defence asks its networks, and an attack its view. Nothing here takes long.

calls:    a copy runs on one image, a multiplication stands for every network, and hooks count
queries:  the attack runs on one image and a view that is never fooled, and counts
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor, nn

from lit_pursamere.attacks import Attack, Boundary, ReconstructionPGD, Transfer
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.evaluation.calls import Calls, counting, networks_of
from lit_pursamere.purifiers import Purifier
from lit_pursamere.seeding import forked_randomness

__all__ = ["Queries", "StandIn", "StandInClassifier", "cheap_copy", "count_calls", "count_queries", "counted"]

# What they cost is not decided by how often they ask the view.
NOT_COUNTED = (Boundary, ReconstructionPGD, Transfer)

Module = TypeVar("Module", bound=nn.Module)


class StandIn(ScoreModel):
    """A tenth of the image, for a score model that is only counted."""

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.1 * y


class StandInClassifier(nn.Module):
    """Multiples of the mean pixel as logits, for a classifier that is only counted.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(1, keepdim=True) * torch.arange(1, 1 + self.classes, device=x.device)


def cheap_copy(
    module: Module, networks: Mapping[str, nn.Module], classes: int
) -> tuple[Module, dict[str, nn.Module]]:  # fmt: skip
    """A copy of a module in which a multiplication stands for each of these networks, and the stand-ins by name."""
    stand_ins: dict[str, nn.Module] = {
        name: (StandIn() if isinstance(network, ScoreModel) else StandInClassifier(classes)).eval()
        for name, network in networks.items()
    }
    replaced = {id(network): stand_ins[name] for name, network in networks.items()}
    return copy.deepcopy(module, replaced), stand_ins


def counted(networks: dict[str, nn.Module], ask: Callable[[], object]) -> dict[str, Calls]:
    """What networks are asked while `ask` runs, by name; the global generators are left as they were."""
    with forked_randomness(), counting(networks) as calls:
        ask()
    return calls


def count_calls(purifier: Purifier, x: Tensor, classes: int) -> list[Calls]:
    """Calls that the purification of one image takes, for every network of the purifier.

    Args:
        purifier: The purifier; a copy of it runs.
        x: One image (1, C, H, W) in [0, 1].
        classes: Number of classes.
    """
    cheap, stand_ins = cheap_copy(purifier, networks_of(purifier), classes)
    with torch.no_grad():
        return list(counted(stand_ins, lambda: cheap(x)).values())


@dataclass
class Queries:
    """How often an attack asks its view about an image: for values, and for gradients of them."""

    values: int = 0
    gradients: int = 0


class Unmoved(nn.Module):
    """A view that is never fooled, and counts what it is asked about images like x, (1, C, H, W)."""

    def __init__(self, x: Tensor, y: int, classes: int) -> None:
        super().__init__()
        self.x, self.y, self.classes, self.queries = x, y, classes, Queries()
        self.train(False)

    @cached_property
    def towards(self) -> Tensor:
        """Weights (C * H * W, K) of the pixels in the logits."""
        pixels = self.x.numel()
        return torch.sin(torch.arange(1, 1 + self.classes * pixels, dtype=self.x.dtype)).view(pixels, -1) / pixels

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            self.queries.gradients += len(x)
        else:
            self.queries.values += len(x)
        logits = x.flatten(1) @ self.towards
        logits[:, self.y] += 100
        return logits


def countable(attack: Attack) -> bool:
    """Whether the cost of an attack, and of those that it is made of, is decided by its queries."""
    parts = [*getattr(attack, "attacks", ()), *([attack.attack] if hasattr(attack, "attack") else [])]
    return not isinstance(attack, NOT_COUNTED) and all(map(countable, parts))


def count_queries(attack: Attack, x: Tensor, y: Tensor, classes: int) -> Queries | None:
    """Queries per image if no image is ever fooled; None if the attack's cost cannot be told from them.

    Args:
        attack: The attack.
        x: One image (1, C, H, W) in [0, 1].
        y: Its class (1,).
        classes: Number of classes.
    """
    if not countable(attack):
        return None
    view = Unmoved(x, int(y), classes)
    attack(view, x, y)
    return view.queries
