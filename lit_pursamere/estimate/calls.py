"""Counting: the network calls of a purifier, the queries of an attack, the FLOP of a call. Nothing here takes long.

calls:    run a copy of the purifier on one image, its networks replaced by a multiplication, and count
queries:  run the attack on one image and a view that is never fooled, and count
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lit_pursamere.attacks import Attack, Boundary, ReconstructionPGD, Transfer
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.evaluation.calls import Calls, counting, networks_of
from lit_pursamere.purifiers import Purifier

__all__ = ["FlopCount", "Queries", "count_calls", "count_queries", "forward_flop"]

# What they cost is not decided by how often they ask the view.
NOT_COUNTED = (Boundary, ReconstructionPGD, Transfer)
LEVEL = 0.01  # of noise, at which every score model can be asked to denoise


class StandIn(ScoreModel):
    """A tenth of the image, for a score model that is only counted."""

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        return 0.1 * y


class StandInClassifier(nn.Module):
    """Pixels as logits, for a classifier that is only counted.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        return 0.1 * x.flatten(1)[:, : self.classes]


def count_calls(purifier: Purifier, x: Tensor, classes: int) -> list[Calls]:
    """Calls that the purification of one image takes, for every network of the purifier.

    Args:
        purifier: The purifier; a copy of it runs, in which a multiplication stands for every network.
        x: One image (1, C, H, W) in [0, 1].
        classes: Number of classes.
    """
    replaced = {
        id(network): StandIn() if isinstance(network, ScoreModel) else StandInClassifier(classes)
        for network in networks_of(purifier).values()
    }
    cheap = copy.deepcopy(purifier, replaced)
    with counting(networks_of(cheap)) as calls, torch.no_grad():
        cheap(x)
    return list(calls.values())


class FlopCount(TorchDispatchMode):
    """FLOP of the matrix products and convolutions inside by torch's formulas, derivatives of any order included.

    Unlike torch's FlopCounterMode it follows no modules, which would fail on inputs that are leaves of a graph.
    """

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if formula := flop_registry.get(function._overloadpacket):
            self.total += formula(*args, **kwargs, out_val=result)
        return result


def forward_flop(purifier: Purifier, x: Tensor) -> list[int]:
    """FLOP of one call, without derivatives, of every network of a purifier on one image (1, C, H, W)."""
    found = []
    for network in networks_of(purifier).values():
        ask = partial(network.denoise, sigma=LEVEL) if isinstance(network, ScoreModel) else network
        with FlopCount() as count, torch.no_grad():
            ask(x)
        found.append(count.total)
    return found


@dataclass
class Queries:
    """How often an attack asks its view about an image: for values, and for gradients of them."""

    values: int = 0
    gradients: int = 0


class Unmoved(nn.Module):
    """A view that is never fooled, and counts what it is asked."""

    def __init__(self, y: int, classes: int) -> None:
        super().__init__()
        self.y, self.classes, self.queries = y, classes, Queries()
        self.train(False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            self.queries.gradients += len(x)
        else:
            self.queries.values += len(x)
        pixels = x.flatten(1)
        towards = torch.sin(torch.arange(1, 1 + self.classes * pixels.shape[1], device=x.device, dtype=x.dtype))
        logits = pixels @ towards.view(pixels.shape[1], self.classes) / pixels.shape[1]
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
    view = Unmoved(int(y), classes)
    attack(view, x, y)
    return view.queries
