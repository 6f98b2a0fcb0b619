"""Names that somebody else chose, written so that they stay names wherever they are shown.

Attacks, systems, classes, runs and settings are read from files, and a file may call them anything: sequences that
command a terminal, HTML, links, formulas of a spreadsheet, mathematics.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches
from html import escape
from typing import Literal

__all__ = ["Place", "meant", "shown"]

Place = Literal["terminal", "markdown", "html", "csv", "latex", "figure"]

# Unicode's categories: controls, directions and joiners, halves, private ones, none, separators.
HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
LATEX |= {character: f"\\{character}" for character in "%_&#${}"}
# What would begin HTML or a cell, or end a link's text, and a backslash that would escape what follows.
ACTIVE = re.compile(r"\\(?=[!-/:-@\[-`{-~])|<(?=[A-Za-z/!?])|\||(?<=\])[(\[:]")
LONGEST = 60  # letters that fit into a figure beside what is drawn
FORMULA = re.compile(r"\s*[=+\-@]")


def shown(text: object, place: Place = "terminal") -> str:
    r"""A text as it can be shown, on one line; ordinary text as it is.

    Args:
        text: What is to be shown.
        place: Where.
            terminal  control characters and invisible ones as escapes, `\x1b`; so they are in the other places, too
            markdown  HTML, links and bars escaped
            html      special characters escaped, for text and for attributes in quotes
            csv       what a spreadsheet would compute begins with an apostrophe; numbers are numbers
            latex     special characters escaped
            figure    for matplotlib: dollars are no mathematics, what begins with an underscore is not left out of
                      the legend, and very long names are cut
    """
    plain = "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in HIDDEN else character
        for character in str(text)
    )
    if place == "markdown":
        return ACTIVE.sub(r"\\\g<0>", plain)
    if place == "html":
        return escape(plain)
    if place == "csv":
        return f"'{plain}" if FORMULA.match(plain) and not _is_number(plain) else plain
    if place == "latex":
        return "".join(LATEX.get(character, character) for character in plain)
    if place == "figure":
        plain = f" {plain}" if plain.startswith("_") else plain
        return (plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…").replace("$", r"\$")
    return plain


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def meant(word: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """A question for the known word that is nearest, or nothing if none is near."""
    nearest = get_close_matches(word, list(known), 1, cutoff)
    return f"; did you mean {prefix}{nearest[0]}?" if nearest else ""
