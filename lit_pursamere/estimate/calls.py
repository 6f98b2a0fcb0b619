"""Counting: the network calls of a purifier, the queries of an attack, the FLOP of a call. Nothing here takes long.

calls:    run the purifier on one image, its networks replaced by a multiplication, and count
queries:  run the attack on one image and a view that is never fooled, and count
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lit_pursamere.attacks import Attack, Boundary, ReconstructionPGD, Transfer
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.evaluation.cost import parts_of
from lit_pursamere.purifiers import Purifier

__all__ = ["Queries", "Tally", "count_calls", "count_queries", "forward_flop", "tallied"]

# What they cost is not decided by how often they ask the view.
NOT_COUNTED = (Boundary, ReconstructionPGD, Transfer)


@dataclass
class Tally:
    """Calls of a network, in images."""

    forward: int = 0
    backward: int = 0


class Stub(torch.autograd.Function):
    """A tenth of the input, for a network that is only counted."""

    @staticmethod
    def forward(ctx, x: Tensor, tally: Tally) -> Tensor:
        ctx.tally = tally
        tally.forward += len(x)
        return 0.1 * x

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        ctx.tally.backward += len(gradient)
        return 0.1 * gradient, None


@dataclass(frozen=True)
class Network:
    """A network that a purifier asks: where its calls can be met, and how to call it once on images x.

    A score model is met at the network in it, however it is asked, or, if it is a formula, at `predict_noise`.
    """

    module: nn.Module
    method: str
    once: Callable[[Tensor], Tensor]
    classifier: bool = False


def networks(purifier: Purifier) -> list[Network]:
    """The networks that a purifier asks."""
    found = [
        Network(part, "predict_noise" if isinstance(part, ScoreModel) else "forward", partial(model.denoise, sigma=1.0))
        for model in purifier.modules()
        if isinstance(model, ScoreModel)
        for part in parts_of(model)
    ]
    guide = getattr(purifier, "classifier", None)
    return found if guide is None else [*found, Network(guide, "forward", guide, classifier=True)]


@contextmanager
def tallied(purifier: Purifier, classes: int = 10, stub: bool = False) -> Iterator[list[Tally]]:
    """Count the calls of a purifier's networks inside, one tally per network.

    Args:
        purifier: The purifier.
        classes: Logits of a stub in the place of a classifier.
        stub: Whether the networks are replaced by a `Stub`; then derivatives are counted, too.
    """
    replaced, tallies = networks(purifier), []
    try:
        for network in replaced:
            tallies.append(Tally())
            real = getattr(network.module, network.method)
            setattr(network.module, network.method, _counting(real, network, tallies[-1], classes, stub))
        yield tallies
    finally:
        for network in replaced:
            network.module.__dict__.pop(network.method, None)


def _counting(real: Callable, network: Network, tally: Tally, classes: int, stub: bool) -> Callable:
    def called(x: Tensor, *others: Any, **named: Any) -> Tensor:
        if not stub:
            tally.forward += len(x)
            return real(x, *others, **named)
        result = Stub.apply(x, tally)
        return result.flatten(1)[:, :classes] if network.classifier else result

    return called


def count_calls(purifier: Purifier, x: Tensor, classes: int) -> list[Tally]:
    """Calls that the purification of one image takes, for every network of the purifier.

    Args:
        purifier: The purifier.
        x: One image (1, C, H, W) in [0, 1].
        classes: Number of classes.
    """
    with tallied(purifier, classes, stub=True) as tallies, torch.no_grad():
        purifier(x)
    return tallies


def forward_flop(purifier: Purifier, x: Tensor) -> list[int]:
    """FLOP of one call, without derivatives, of every network of a purifier on one image (1, C, H, W)."""
    found = []
    for network in networks(purifier):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.once(x)
        found.append(counter.get_total_flops())
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
