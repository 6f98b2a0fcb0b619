"""Calls of networks and gradients through them, in images, counted by forward hooks.

An image that goes through a network is a call; a gradient that comes back through it for an image is a gradient, and
what comes back a second time, to differentiate that gradient, a second one. A score model is one network, whatever is
in it: all that it is asked are calls of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lit_pursamere.purifiers import Purifier

__all__ = ["Calls", "counting", "networks_of"]


@dataclass
class Calls:
    """How often a network was asked, in images: forward, for gradients, and for gradients of these.

    `together` is the most images that it was asked about at once.
    """

    forward: int = 0
    backward: int = 0
    second: int = 0
    together: int = field(default=0, compare=False)

    def add(self, network: nn.Module, inputs: tuple, result: Tensor) -> None:
        """A forward hook."""
        self.forward += len(result)
        self.together = max(self.together, len(result))
        if result.requires_grad:
            self.follow(result)

    def follow(self, result: Tensor) -> None:
        """Count the gradients that come back to a result."""
        differentiable = False  # whether one came that is itself to be differentiated

        def passed(gradient: Tensor) -> None:
            nonlocal differentiable
            if differentiable:
                self.second += len(gradient)
            else:
                self.backward += len(gradient)
            differentiable = differentiable or torch.is_grad_enabled()

        result.register_hook(passed)


def networks_of(purifier: Purifier, prefix: str = "") -> dict[str, nn.Module]:
    """The networks of a purifier, and of the purifiers in it, by dotted name: its submodules."""
    found: dict[str, nn.Module] = {}
    for name, module in purifier.named_children():
        found |= networks_of(module, f"{prefix}{name}.") if isinstance(module, Purifier) else {prefix + name: module}
    return found


@contextmanager
def counting(networks: dict[str, nn.Module]) -> Iterator[dict[str, Calls]]:
    """Count the calls of networks inside, by the networks' names."""
    calls = {name: Calls() for name in networks}
    hooks = [network.register_forward_hook(calls[name].add) for name, network in networks.items()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
