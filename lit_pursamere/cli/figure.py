"""`lit-pursamere figure`: figures of the theory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lit_pursamere.report.drawing import figure_file, save_figure
from lit_pursamere.worlds.figures import FIGURES

__all__ = ["figure"]


def figure(name: Literal[tuple(sorted(FIGURES))], output: Path) -> None:  # type: ignore[valid-type]
    """Draw a figure of the theory as PNG, PDF or SVG.

    Args:
        name: Which.
        output: File to write; its suffix decides the format.

    Raises:
        ValueError: If it is none of these.
        OSError: If it cannot be written.
    """
    figure_file(output)
    save_figure(FIGURES[name](), output)
    print(f"wrote {output}")
