"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lit_pursamere.names import shown

__all__ = ["markdown_table"]


def markdown_table(head: Sequence[object], body: Iterable[Sequence[object]]) -> str:
    """Write an aligned table; what a cell holds is shown as text, see `names.shown`."""
    grid = [[shown(cell, "markdown") for cell in row] for row in (head, *body)]
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in grid]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
