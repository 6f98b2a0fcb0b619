"""`lit-pursamere figure`: figures of the theory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lit_pursamere.worlds.figures import FIGURES

__all__ = ["figure"]

FORMATS = (".png", ".pdf", ".svg")


def figure(name: Literal[tuple(sorted(FIGURES))], output: Path) -> None:  # type: ignore[valid-type]
    """Draw a figure of the theory as PNG, PDF or SVG.

    Args:
        name: Which.
        output: File to write; its suffix decides the format.

    Raises:
        ValueError: If it has another suffix.
        OSError: If it cannot be written.
    """
    if output.suffix not in FORMATS:
        raise ValueError(f"a figure is written as {', '.join(FORMATS)}, by its suffix; got {output}")
    output.parent.mkdir(parents=True, exist_ok=True)
    FIGURES[name]().savefig(output, bbox_inches="tight")
    print(f"wrote {output}")
