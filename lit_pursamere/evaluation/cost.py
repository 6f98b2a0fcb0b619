"""What one purification costs, and whether it is deterministic: measured on images, not claimed.

    purify x twice, in all copies of an answer:  once counting what every network is asked,  once by the clock
    deterministic:   both results are equal bit for bit, although torch's global generators stood elsewhere

What is a network, and what is a call of it, says `calls`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.evaluation.calls import counting, networks_of
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store.costs import Asked, Cost, read_cost
from lit_pursamere.store.provenance import device_name
from lit_pursamere.weights import state_digest

__all__ = ["known_cost", "measure_cost", "now"]


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

    Args:
        defense: The defence whose purifier is measured; its classifier and detector are not.
        x: Images (B, C, H, W) in [0, 1] on its device.
    """
    networks = networks_of(defense.purifier)
    with forked_randomness():
        torch.manual_seed(0)
        with counting(networks) as calls:
            first = torch.stack(defense.purifications(x))
        torch.manual_seed(1)
        began = now(x.device)
        second = torch.stack(defense.purifications(x))
        seconds = now(x.device) - began
    asked = {}
    for name, network in networks.items():
        counted = calls[name].forward / len(x), calls[name].backward / len(x)
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


def now(device: torch.device) -> float:
    """Seconds on a clock that waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
