"""What a call of a network takes, in FLOP and memory, from its shapes alone: it is asked once on the meta device.

call:      the network's answer about an image
gradient:  of a function of the answer with respect to the image, after the call
second:    the gradient of that gradient, after both
lesson:    a call and the gradients of all weights
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.estimate.memory import Live
from lit_pursamere.evaluation.calls import Calls

__all__ = ["LEVEL", "FlopCount", "Kind", "Price", "bytes_of"]

Kind = Literal["call", "gradient", "second", "lesson"]
LEVEL = 0.01  # of noise, at which every score model can be asked to denoise
FEW = 2  # images that a lesson is about: batch normalisation learns nothing from one


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


class Price:
    """FLOP and bytes that a network takes for each image.

    Args:
        network: A score model, or a network from images to anything; it stays as it is.
        shape: Of the images, (C, H, W).
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...]) -> None:
        self.network, self.shape = network, shape
        self.asked = cache(self._asked)

    def flop(self, kind: Kind) -> float:
        """FLOP for an image, without those of what comes before it."""
        before: dict[Kind, Kind] = {"gradient": "call", "second": "gradient"}
        return self.asked(kind)[0] - (self.asked(before[kind])[0] if kind in before else 0)

    def of(self, calls: Calls) -> float:
        """FLOP of so many calls, gradients and second gradients."""
        numbers: dict[Kind, int] = {"call": calls.forward, "gradient": calls.backward, "second": calls.second}
        return sum(number * self.flop(kind) for kind, number in numbers.items() if number)

    def room(self, kind: Kind, images: int) -> float:
        """Bytes for so many images at once and for the gradients of weights; rather too many than too few."""
        kept = bytes_of(self.network) if kind == "lesson" else 0
        return kept + images * max(self.asked(kind)[1] - kept / (FEW if kept else 1), 0)

    def _asked(self, kind: Kind) -> tuple[float, float]:
        """FLOP of all that a kind takes, and the most bytes, each for an image.

        What cannot be computed from shapes alone is computed.
        """
        images = FEW if kind == "lesson" else 1
        try:
            asked = measured(on_meta(self.network), torch.rand(images, *self.shape, device="meta"), kind)
        except Exception:  # of a network that looks at numbers
            asked = measured(self.network, torch.rand(images, *self.shape), kind)
        return asked[0] / images, asked[1] / images


def measured(network: nn.Module, x: Tensor, kind: Kind) -> tuple[float, float]:
    """FLOP and the most bytes of a network that is asked about images."""
    with FlopCount() as count, Live() as live:
        ask(network, x, kind)
    return count.total, live.most


def ask(network: nn.Module, x: Tensor, kind: Kind) -> None:
    """Ask a network about images (B, C, H, W)."""
    x = x.requires_grad_(kind in ("gradient", "second"))
    with torch.set_grad_enabled(kind != "call"):
        error = (network.denoise(x, LEVEL) if isinstance(network, ScoreModel) else network(x)).square().sum()
        if kind == "lesson":
            weights = [weight for weight in network.parameters() if weight.requires_grad]
            torch.autograd.grad(error, weights, allow_unused=True)
        elif kind != "call":
            (slope,) = torch.autograd.grad(error, x, create_graph=kind == "second")
            if kind == "second":
                torch.autograd.grad(slope.square().sum(), x)


def on_meta(network: nn.Module) -> nn.Module:
    """A copy on the meta device, made without copying a weight."""
    tensors: Mapping[int, Tensor] = {
        **{id(one): nn.Parameter(one.to("meta"), one.requires_grad) for one in network.parameters()},
        **{id(one): one.to("meta") for one in network.buffers()},
    }
    return copy.deepcopy(network, dict(tensors))


def bytes_of(module: nn.Module) -> int:
    """Bytes of all parameters and buffers, each counted once."""
    tensors = {id(one): one for one in (*module.parameters(), *module.buffers())}.values()
    return sum(one.nbytes for one in tensors)
