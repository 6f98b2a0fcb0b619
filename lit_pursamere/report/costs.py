"""What purifications cost, as a comparison shows it: network calls for one answer, seconds, and determinism."""

from __future__ import annotations

from collections.abc import Mapping

from lit_pursamere.report.notes import with_exceptions
from lit_pursamere.store.costs import Cost

__all__ = ["COST_FIELDS", "cost_cells", "cost_notes", "cost_record"]

COST_FIELDS: dict[str, type] = {
    "calls": float, "gradients": float, "other_calls": float, "other_gradients": float,
    "seconds_per_purification": float, "deterministic": bool,
}  # fmt: skip


def cost_cells(cost: Cost | None) -> dict[str, str]:
    """The cells of a table by column; empty where nothing was measured."""
    if cost is None:
        return dict.fromkeys(("network calls", "s/image", "deterministic"), "")
    score, other = _calls(*cost.asked(True)), _calls(*cost.asked(False))
    return {
        "network calls": score + (f" [{other}]" if other != "0" else ""),
        "s/image": f"{cost.seconds:.2g}",
        "deterministic": _yes(cost.deterministic),
    }


def cost_record(cost: Cost) -> dict[str, object]:
    """The entries COST_FIELDS of a record."""
    values = (*cost.asked(True), *cost.asked(False), cost.seconds, cost.deterministic)
    return dict(zip(COST_FIELDS, values, strict=True))


def cost_notes(costs: Mapping[str, Cost]) -> list[str]:
    """What the columns mean, and where the costs of these purifiers, by name, were measured; none without costs."""
    if not costs:
        return []
    machines = {
        label: f"{cost.device}, threads {cost.threads}, batches of {cost.images}" for label, cost in costs.items()
    }
    return [
        "Network calls: images that go through the score model for one answer about one image, + gradients that come "
        "back; in brackets the same of other networks in the purifier. s/image: the purification for an answer; "
        f"{with_exceptions('measured on', machines)}. Deterministic: a second one gave the same images bit for bit."
    ]


def _calls(forward: float, gradients: float) -> str:
    """Calls and gradients, "1856 + 1856"."""
    return f"{forward:g}" + (f" + {gradients:g}" if gradients else "")


def _yes(value: bool) -> str:
    return "yes" if value else "no"
