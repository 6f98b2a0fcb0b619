"""What one purification costs, and whether it is deterministic: measured on images, not claimed.

    purify x twice, in all copies of an answer:  once counting what every network is asked,  once by the clock
    deterministic:   both results are equal bit for bit, although torch's global generators stood elsewhere

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

from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.purifiers import Purifier
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store.costs import Asked, Cost, read_cost
from lit_pursamere.store.provenance import device_name
from lit_pursamere.weights import state_digest

__all__ = ["known_cost", "measure_cost", "now", "parts_of"]


def known_cost(defense: Defense, folder: str | Path) -> Cost | None:
    """The cost in a run's cost.json, if there is one and it is that of this purifier with these weights.

    Raises:
        ValueError: If cost.json is damaged.
    """
    known, (purifier, weights) = read_cost(folder), identity(defense)
    return known if known is not None and (known.purifier, known.weights) == (purifier, weights) else None


def identity(defense: Defense) -> tuple[str, str]:
    """What is purified with: a description, and a digest of the weights."""
    return ", ".join(filter(None, map(str, (defense.purifier, defense.ensemble)))), state_digest(defense.purifier)


@torch.no_grad()
def measure_cost(defense: Defense, x: Tensor) -> Cost:
    """Purify images twice, in as many copies as an answer takes; the global generators are left as they were.

    Networks are found where a purifier keeps them, as submodules; of a purifier inside a purifier, its own. A score
    model is counted by the network in it, or, if it is a formula, where it is asked for the noise.

    Args:
        defense: The defence whose purifier is measured; its classifier and detector are not.
        x: Images (B, C, H, W) in [0, 1] on its device.
    """
    networks = dict(networks_of(defense.purifier))
    with forked_randomness():
        torch.manual_seed(0)
        with counting(networks) as (calls, gradients):
            first = torch.stack(defense.purifications(x))
        torch.manual_seed(1)
        began = now(x.device)
        second = torch.stack(defense.purifications(x))
        seconds = now(x.device) - began
    asked = {}
    for name, network in networks.items():
        counted = calls[name] / len(x), gradients[name] / len(x)
        asked[name] = Asked(type(network).__name__, isinstance(network, ScoreModel), *counted)
    return Cost(
        *identity(defense),
        networks=asked,
        images=len(x),
        seconds=seconds / len(x),
        deterministic=torch.equal(first, second),
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

    hooks, formulas = [], []
    for name, network in networks.items():
        for part in parts_of(network):
            if isinstance(part, ScoreModel):
                predict = part.predict_noise
                part.predict_noise = lambda y, sigma, name=name, predict=predict: count(name, predict(y, sigma))
                formulas.append(part)
            else:
                hooks.append(part.register_forward_hook(lambda _, __, result, name=name: count(name, result)))
    try:
        yield calls, gradients
    finally:
        for hook in hooks:
            hook.remove()
        for formula in formulas:
            del formula.predict_noise


def parts_of(network: nn.Module) -> list[nn.Module]:
    """What is called as a module: of a score model the networks in it, or itself if it has none."""
    if not isinstance(network, ScoreModel):
        return [network]
    return [part for child in network.children() for part in parts_of(child)] or [network]


def now(device: torch.device) -> float:
    """Seconds on a clock that waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
