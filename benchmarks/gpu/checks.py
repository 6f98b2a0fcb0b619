"""A check: named work that notes numbers, and every law that it finds broken, instead of stopping at the first.

    checks = [Check("EDM in bf16", work), ...]        # work(notes): notes.bound("alone from batch", 3e-4, most=2e-2)
    run_checks(session, checks, seconds=150)

Numbers are in the report's `results` as soon as they are known, also those of a check that fails later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from session import Session

__all__ = ["Check", "LawBroken", "Notes", "run_checks"]


class LawBroken(Exception):
    """A check came to its end and found something wrong; the message lists it."""


class Notes:
    """What one check has found: `numbers` by name, and the laws that are `broken`."""

    def __init__(self) -> None:
        self.numbers: dict[str, object] = {}
        self.broken: list[str] = []

    def note(self, name: str, value: object) -> None:
        """Keep a value; of a number with a fraction three digits."""
        if isinstance(value, float):
            value = float(f"{value:.3g}") if math.isfinite(value) else str(value)
        self.numbers[name] = value

    def bound(self, name: str, value: float, most: float) -> None:
        """Keep a number, and demand that it is at most `most`; NaN is not."""
        self.note(name, value)
        if not value <= most:
            self.broken.append(f"{name}: {value:.3g} > {most:g}")

    def require(self, law: str, holds: bool) -> None:
        """Demand that a law holds."""
        if not holds:
            self.broken.append(f"not {law}")

    def close(self) -> None:
        """Raise LawBroken if anything is."""
        if self.broken:
            raise LawBroken("; ".join(self.broken))


@dataclass(frozen=True)
class Check:
    """One entry of the report.

    Args:
        name: What is checked, and in which precision.
        work: Checks it.
        limit: Seconds after which it is broken off.
    """

    name: str
    work: Callable[[Notes], None]
    limit: float = 15.0


def run_checks(session: Session, checks: Iterable[Check], seconds: float = math.inf, patience: float = 1.0) -> None:
    """Run checks one after the other, whatever becomes of any.

    Args:
        session: Where they are reported.
        checks: The checks.
        seconds: Those that have not begun by then are left out.
        patience: Factor of their limits.
    """
    end = session.clock() + seconds
    for check in checks:
        notes = Notes()

        def work(check: Check = check, notes: Notes = notes) -> dict[str, object]:
            session.report["results"][check.name] = notes.numbers
            try:
                check.work(notes)
            except Exception as error:
                if notes.broken:
                    notes.broken.append(f"then {type(error).__name__}: {error}")
                else:
                    raise
            notes.close()
            return notes.numbers

        session.step(check.name, work, patience * check.limit, needs=1.0 if session.clock() < end else math.inf)
