"""The table of an estimate: a row per stage, a column per device, and what a reader should know below."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lit_pursamere.estimate.devices import Device, utilisation
from lit_pursamere.estimate.memory import free_bytes
from lit_pursamere.estimate.stages import Stage
from lit_pursamere.markdown import markdown_table

__all__ = ["duration", "quantity", "told"]


def told(stages: Sequence[Stage], devices: Sequence[Device]) -> str:
    """The stages and their sum as Markdown, on every device and, where it was clocked, on this machine; then notes.

    Times and memory of which something is not known are without it.
    """
    here = any(stage.speed for stage in stages)
    heads = [f"{device.name}{' (measured)' * device.measured}" for device in devices]
    rows, times = [], []
    for stage in stages:
        seconds = [device.seconds(stage) for device in devices]
        if here:
            seconds.append(stage.here)
        times.append(seconds)
        rows.append([
            stage.name, f"{stage.images:,.0f} x {stage.size}", quantity(stage.flop, "FLOP"),
            room(stage), *map(duration, seconds), stage.note,
        ])  # fmt: skip
    missing = sum(stage.cost is None for stage in stages)
    whole = quantity(sum(stage.flop or 0 for stage in stages), "FLOP")
    sums = [duration(sum(filter(None, column))) for column in zip(*times, strict=True)]
    last = f"without {missing} that could not be estimated" if missing else ""
    rows.append(["**all**", "", whole, room(max(stages, key=lambda stage: stage.room)), *sums, last])
    heads += ["this machine (measured)"] if here else []
    return markdown_table(["stage", "images x batch", "FLOP", "memory", *heads, "note"], rows) + "\n" + notes(
        stages, devices, here
    )  # fmt: skip


def notes(stages: Sequence[Stage], devices: Sequence[Device], here: bool) -> str:
    """What the numbers mean and leave out, a line each."""
    lines = [
        f"Hours are FLOP by speed, at ideal scaling. Where nothing was measured, {utilisation():.0%} of what the maker "
        "states is assumed, in float32 for convolutions in TF32.",
        "Memory: at most what a batch needs, beside weights and optimiser. Not in these numbers: start, compilation, "
        "reading, checkpoints, samples.",
    ]
    free = free_bytes(torch.device("cpu"))
    for setting in dict.fromkeys(stage.setting for stage in stages):
        stage = max((one for one in stages if one.setting == setting), key=lambda one: one.room / one.size)
        if free is not None and stage.room > free:
            fits = max(int(stage.size * free / stage.room), 1)
            lines.append(
                f"{stage.name}: a batch of {stage.size:,} images needs about {quantity(stage.room, 'B')}, and "
                f"{quantity(free, 'B')} are free here; lower {setting} to {fits:,} or less"
            )
    if any(device.measured for device in devices) or here:
        lines.append("Measured: 1-core-cpu with small networks, 2-core-cpu with large ones." if not here else
                     "This machine: a network of each stage, clocked at its batch, by its FLOP.")  # fmt: skip
    return "\n".join(lines) + "\n"


def room(stage: Stage) -> str:
    """What a batch needs, if anything."""
    return quantity(stage.room, "B") if stage.room else ""


def duration(seconds: float | None) -> str:
    """Seconds in the unit in which one can think of them."""
    if seconds is None:
        return "not estimated"
    for unit, length in (("y", 365.25 * 86400), ("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def quantity(value: float | None, unit: str) -> str:
    """A number with an SI prefix."""
    if value is None:
        return "?"
    for prefix, size in (("Z", 1e21), ("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:,.3g} {prefix}{unit}"
    return f"{value:,.3g} {unit}"
