"""Figures into files, beside verdicts and tables and never between them: a figure that fails is one line.

with beside("pictures.png"):
    save_figure(draw(...), folder / "pictures.png")
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lit_pursamere.names import shown
from lit_pursamere.store.atomic import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NothingToDraw", "beside", "figure_content", "figure_file", "save_figure"]

FORMATS = (".png", ".pdf", ".svg")


class NothingToDraw(ValueError):
    """The records do not hold what a figure is about."""


@contextmanager
def beside(what: str) -> Iterator[None]:
    """Whatever fails within is told in one line on stderr, and whoever asked goes on; nothing to draw is no failure.

    Args:
        what: What there will not be then, "survival.png".
    """
    try:
        yield
    except NothingToDraw:
        pass
    except Exception as error:  # of any kind: matplotlib, torch and loggers raise many
        if os.environ.get("LIT_PURSAMERE_TRACEBACK"):
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"lit-pursamere: there is no {what} ({shown(told)}); all else is as it should be", file=sys.stderr)


def figure_file(file: Path) -> Path:
    """A file that a figure can be written to; its folder is made if need be.

    Raises:
        ValueError: If it is a folder, or its ending says no format; before anything is computed.
        OSError: If the folder cannot be made.
    """
    if file.suffix not in FORMATS or file.is_dir():
        raise ValueError(f"a figure is written to a file that ends in {', '.join(FORMATS)}; got {file}")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def figure_content(figure: Figure, format: str, tight: bool = True) -> bytes:
    """A figure as the content of a file, the same bytes at every call; what no font has is a box.

    Args:
        figure: A figure of `style.new_figure`.
        format: `png`, `pdf` or `svg`.
        tight: Whether to cut empty margins.
    """
    from matplotlib import rc_context

    content = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "lit_pursamere"}):
        warnings.filterwarnings("ignore", message="Glyph .* missing from|constrained_layout not applied")
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(format)
        figure.savefig(content, format=format, bbox_inches="tight" if tight else None, metadata=undated)
    return content.getvalue()


def save_figure(figure: Figure, file: Path, tight: bool = True) -> None:
    """Write a figure in the format of the file's ending, whole or not at all; see `figure_content`.

    Raises:
        OSError: If it cannot be written.
    """
    write_whole(file, figure_content(figure, file.suffix.removeprefix(".") or "png", tight))
