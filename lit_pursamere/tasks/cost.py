"""What one purification costs, and whether it is deterministic: measured on images, not claimed.

    purify x twice:  once counting what every network is asked,  once by the clock
    deterministic:   both results are equal bit for bit, and torch's global generators stand where they stood

An image that goes through a network is a call; a gradient that comes back through it for an image is a gradient.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.purifiers import Purifier
from lit_pursamere.results.costs import Asked, Cost, read_cost
from lit_pursamere.results.environment import device_name
from lit_pursamere.weights import state_digest

__all__ = ["known_cost", "measure_cost"]


def known_cost(purifier: Purifier, folder: str | Path) -> Cost | None:
    """The cost in a run's cost.json, if there is one and it is that of this purifier with these weights.

    Raises:
        ValueError: If cost.json is damaged.
    """
    known = read_cost(folder)
    same = known is not None and (known.purifier, known.weights) == (str(purifier), state_digest(purifier))
    return known if same else None


@torch.no_grad()
def measure_cost(purifier: Purifier, x: Tensor) -> Cost:
    """Purify images twice and say what it took; the global generators are left as they were.

    Networks are found where purifiers keep them, as submodules; of a purifier inside a purifier, its own. A score model
    is counted where the noise is asked for, so that one that is never called as a module counts as well.

    Args:
        purifier: The purifier.
        x: Images (B, C, H, W) in [0, 1] on the purifier's device.
    """
    networks = dict(networks_of(purifier))
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        before = generators(x.device)
        with counting(networks) as (calls, gradients):
            first = purifier(x)
        draws = not all(torch.equal(a, b) for a, b in zip(before, generators(x.device), strict=True))
        began = clock(x.device)
        second = purifier(x)
        seconds = clock(x.device) - began
    asked = {}
    for name, network in networks.items():
        counted = calls[name] / len(x), gradients[name] / len(x)
        asked[name] = Asked(type(network).__name__, isinstance(network, ScoreModel), *counted)
    return Cost(
        purifier=str(purifier),
        weights=state_digest(purifier),
        networks=asked,
        images=len(x),
        seconds=seconds / len(x),
        repeats=torch.equal(first, second),
        draws=draws,
        device=device_name(x.device),
        threads=torch.get_num_threads(),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def networks_of(purifier: Purifier, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The networks of a purifier and of the purifiers in it, by dotted name."""
    for name, module in purifier.named_children():
        if isinstance(module, Purifier):
            yield from networks_of(module, f"{prefix}{name}.")
        else:
            yield prefix + name, module


@contextmanager
def counting(networks: dict[str, nn.Module]) -> Iterator[tuple[Counter, Counter]]:
    """Count images that go through networks, and gradients that come back through them, by the networks' names."""
    calls, gradients = Counter(), Counter()

    def count(name: str, result: Tensor) -> Tensor:
        calls[name] += len(result)
        if result.requires_grad:
            result.register_hook(lambda gradient: gradients.update({name: len(gradient)}))
        return result

    hooks = []
    for name, network in networks.items():
        if isinstance(network, ScoreModel):
            predict = network.predict_noise
            network.predict_noise = lambda y, sigma, name=name, predict=predict: count(name, predict(y, sigma))
        else:
            hooks.append(network.register_forward_hook(lambda _, __, result, name=name: count(name, result)))
    try:
        yield calls, gradients
    finally:
        for hook in hooks:
            hook.remove()
        for network in networks.values():
            vars(network).pop("predict_noise", None)


def generators(device: torch.device) -> list[Tensor]:
    """States of torch's global generators."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def clock(device: torch.device) -> float:
    """Seconds, once everything that was asked of a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
