"""How fast devices are: a table of what their makers state, or of what was measured, and this machine by the clock."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
import yaml

from lit_pursamere.estimate.memory import free_bytes
from lit_pursamere.estimate.prices import Kind, Price, ask
from lit_pursamere.estimate.stages import Stage
from lit_pursamere.evaluation.cost import now
from lit_pursamere.names import meant

__all__ = ["Device", "Estimate", "clocked", "devices_of", "utilisation"]

SECONDS = 0.5  # that a clocked batch takes at least, unless it is as large as it will be


class Device(NamedTuple):
    """So many devices of a kind: TFLOP/s that one reaches, in float32 and in formats of 16 bits, measured or not."""

    name: str
    number: int
    measured: bool
    float32: float
    bf16: float | None

    def seconds(self, stage: Stage) -> float | None:
        """What a stage takes, if devices never wait for one another; None: not known."""
        speed = None if "64" in stage.precision else self.bf16 if "16" in stage.precision else self.float32
        return None if speed is None or stage.cost is None else stage.cost.flop / (speed * 1e12 * self.number)


@cache
def read() -> dict[str, Any]:
    """The table of devices.yaml."""
    return yaml.safe_load(files(__package__).joinpath("devices.yaml").read_text(encoding="utf-8"))


def utilisation() -> float:
    """The share of what its maker states that an unmeasured device is assumed to reach."""
    return read()["utilisation"]


def devices_of(words: str) -> list[Device]:
    """The devices that are named, `h100,8xa100`.

    Raises:
        ValueError: If one is not in the table.
    """
    found = []
    for word in filter(None, (part.strip() for part in words.split(","))):
        known = read()["devices"]
        times, name = re.fullmatch(r"(?:([1-9]\d*)x)?(.*)", word).groups()  # type: ignore[union-attr]
        if name not in known:
            hint = meant(name, known) or f"; known: {', '.join(known)}, several as 8x{[*known][-1]}"
            raise ValueError(f"estimate.devices: there is no device {name!r} in the table{hint}")
        row = known[name]
        share = 1 if "measured" in row else utilisation()
        speeds = share * row.get("tf32", row["float32"]), share * row["bf16"] if "bf16" in row else None
        found.append(Device(word, int(times or 1), "measured" in row, *speeds))
    return found


@dataclass(frozen=True)
class Estimate:
    """How a run is estimated.

    Args:
        devices: On what: names of the table, several of a kind as 8xh100, separated by commas.
        measure: Whether to clock this machine as well, for some seconds: a network of each stage, at its batch.

    Raises:
        ValueError: If a device is not in the table.
    """

    devices: str = "1-core-cpu,2-core-cpu,rtx-4090,a100,h100"
    measure: bool = False

    def __post_init__(self) -> None:
        devices_of(self.devices)


def clocked(stages: list[Stage], trainer: pl.Trainer) -> list[Stage]:
    """The stages with the speed of this machine: of the network that takes the most of each, at most at its batch.

    Args:
        stages: The stages.
        trainer: For device and precision; it runs nothing.
    """
    known: dict[tuple, float] = {}
    found = []
    for stage in stages:
        if (cost := stage.cost) is not None and (price := cost.price) is not None:
            most = stage.size * cost.together
            key = id(price.network), cost.kind, most
            if key not in known:
                known[key] = speed(price, cost.kind, most, trainer)
            stage = replace(stage, speed=known[key])
        found.append(stage)
    return found


def speed(price: Price, kind: Kind, most: int, trainer: pl.Trainer) -> float:
    """FLOP per second of a network; the batch grows to `most`, or until it takes long enough, or would not fit."""
    device, precision = trainer.strategy.root_device, trainer.precision_plugin
    network = precision.convert_module(price.network).to(device)
    size = min(most, 2)
    with precision.forward_context():
        while True:
            x = precision.convert_input(torch.rand(size, *price.shape, device=device))
            ask(network, x, kind)  # warms up
            began = now(device)
            ask(network, x, kind)
            seconds = now(device) - began
            larger, free = min(2 * size, most), free_bytes(device)
            if size == most or seconds > SECONDS or (free is not None and price.room(kind, larger) > free):
                return price.asked(kind)[0] * size / seconds
            size = larger
