"""The stages of a run, what each costs, and the table of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lit_pursamere.markdown import markdown_table

__all__ = ["Stage", "duration", "table"]


@dataclass(frozen=True)
class Stage:
    """A part of a run that consists of so many batches.

    Args:
        name: What is done.
        batches: How many batches, of all devices together.
        size: Images, or pairs, in a batch.
        flop: Floating point operations of a batch (None: not known).
        seconds: Seconds that a device takes for a batch (None: not estimated).
        note: What a reader should know.
    """

    name: str
    batches: float
    size: int
    flop: float | None
    seconds: float | None
    note: str = ""

    @property
    def total_flop(self) -> float | None:
        """FLOP of all batches."""
        return None if self.flop is None else self.flop * self.batches

    def total_seconds(self, devices: int) -> float | None:
        """Seconds on so many devices that do not wait for one another; as if batches were dealt whole."""
        if self.seconds is None:
            return None
        if devices == 1:
            return self.seconds * self.batches
        return self.seconds * math.ceil(self.batches / devices)


def table(stages: list[Stage], devices: int) -> str:
    """The stages and their sum as Markdown, on one device and on `devices`."""
    counts = sorted({1, devices})
    heads = ["stage", "batches x size", "FLOP", *(f"time on {n} device{'s' * (n > 1)}" for n in counts), "note"]
    rows = [
        [
            stage.name, f"{math.ceil(stage.batches):,} x {stage.size}", quantity(stage.total_flop, "FLOP"),
            *(duration(stage.total_seconds(n)) for n in counts), stage.note,
        ]
        for stage in stages
    ]  # fmt: skip
    known = [stage for stage in stages if stage.seconds is not None]
    missing = len(stages) - len(known)
    rows.append([
        "**all**", "", quantity(sum(stage.total_flop or 0 for stage in stages), "FLOP"),
        *(duration(sum(stage.total_seconds(n) or 0 for stage in known)) for n in counts),
        f"without {missing} that could not be estimated" if missing else "",
    ])  # fmt: skip
    return markdown_table(heads, rows)


def duration(seconds: float | None) -> str:
    """Seconds in the unit in which one can think of them."""
    if seconds is None:
        return "not estimated"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.1f} s"


def quantity(value: float | None, unit: str) -> str:
    """A number with an SI prefix."""
    if value is None:
        return "?"
    for prefix, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:,.3g} {prefix}{unit}"
    return f"{value:,.3g} {unit}"
