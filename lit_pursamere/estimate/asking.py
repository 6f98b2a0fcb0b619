"""What a defence takes for an image: what its networks are asked, times what they take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lit_pursamere.attacks.gradients import loss_gradient
from lit_pursamere.data import ImageDataModule
from lit_pursamere.defense import Defense
from lit_pursamere.estimate.calls import Queries, cheap_copy, counted
from lit_pursamere.estimate.prices import Kind, Price
from lit_pursamere.evaluation.calls import Calls, networks_of
from lit_pursamere.evaluation.judge import judge
from lit_pursamere.purifiers import Purifier

__all__ = ["Asking", "Cost", "shape_of"]


@dataclass(frozen=True)
class Cost:
    """What something takes: FLOP, and the network that takes the most of them: how, and of how many images at once."""

    flop: float = 0.0
    price: Price | None = None
    kind: Kind = "call"
    together: int = 1

    def __add__(self, other: Cost) -> Cost:
        most = self if self.flop >= other.flop else other
        return Cost(self.flop + other.flop, most.price, most.kind, most.together)

    def __mul__(self, count: float) -> Cost:
        return Cost(self.flop * count, self.price, self.kind, self.together)


def shape_of(data: ImageDataModule) -> tuple[int, int, int]:
    """Of its images, (C, H, W)."""
    return data.channels, data.image_size, data.image_size


class Asking:
    """What a defence, or a purifier alone, takes for an image of a data set; counted when first asked for."""

    def __init__(self, module: Defense | Purifier, data: ImageDataModule) -> None:
        self.networks, self.classes = networks_in(module), data.num_classes
        self.prices = {name: Price(network, shape_of(data)) for name, network in self.networks.items()}
        self.x = torch.rand(1, *shape_of(data), generator=torch.Generator().manual_seed(0))
        self.y = torch.zeros(1, dtype=torch.long)
        self.module: Any = module
        self.cheap: Any = cheap_copy(module, self.networks, self.classes)
        self.known: dict[object, Cost] = {}

    def purified(self) -> Cost:
        """A purification by a purifier."""
        return self.cost("purified", lambda purifier: purifier(self.x), gradients=False)

    def verdict(self) -> Cost:
        """One verdict of a defence."""

        def judged(defense: Defense) -> None:
            if defense.detector is not None and not defense.detector.calibrated:
                defense.detector.threshold = math.inf
            judge(defense, self.x, self.y, 1, 1)

        return self.cost("verdict", judged, gradients=False)

    def value(self, view: Any) -> Cost:
        """Logits of a view."""
        return self.cost((view, False), lambda defense: defense.view(view)(self.x), gradients=False)

    def gradient(self, view: Any) -> Cost:
        """The gradient of a loss on a view."""
        return self.cost((view, True), lambda defense: loss_gradient(defense.view(view), self.x, self.y))

    def queries(self, view: Any, queries: Queries) -> Cost:
        """So many queries of a view."""
        values = self.value(view) * queries.values if queries.values else Cost()
        return values + (self.gradient(view) * queries.gradients if queries.gradients else Cost())

    def cost(self, key: object, ask: Callable[[Any], object], gradients: bool = True) -> Cost:
        """What the networks are asked by this; where stand-ins do not serve, of the networks themselves."""
        if key not in self.known:
            with torch.set_grad_enabled(gradients):
                try:
                    cheap, stand_ins = self.cheap
                    calls = counted(stand_ins, lambda: ask(cheap))
                except Exception:  # it asks more of its networks than a score model has
                    calls = counted(self.networks, lambda: ask(self.module))
            self.known[key] = self.sum(calls)
        return self.known[key]

    def sum(self, calls: dict[str, Calls]) -> Cost:
        """FLOP of all calls."""
        total = Cost()
        for name, one in calls.items():
            kind: Kind = "second" if one.second else "gradient" if one.backward else "call"
            total += Cost(self.prices[name].of(one), self.prices[name], kind, max(one.together, 1))
        return total


def networks_in(module: nn.Module) -> dict[str, nn.Module]:
    """The networks of a defence, or of a purifier, each once, by dotted name."""
    if isinstance(module, Purifier):
        return networks_of(module)
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, part in module.named_children():
        inside = {"": part}
        if isinstance(part, Purifier):
            inside = networks_of(part)
        elif name == "detector":
            inside = dict(part.named_children())
        for inner, network in inside.items():
            found.setdefault(id(network), (f"{name}.{inner}", network))
    return dict(found.values())
