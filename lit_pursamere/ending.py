"""How a command ends: one line with what was made, where, how good it is, and what to do next.

made, and where; headline number; next: command

200 of 200 test images purified in runs/purified; next: lit-pursamere purified inspect runs/purified
"""

from __future__ import annotations

import shlex

from lit_pursamere.names import shown

__all__ = ["command", "ending"]


def ending(made: str, headline: str = "", then: str = "") -> str:
    """The last line of a command.

    Args:
        made: What was made, and where: "1400 train images purified in runs/purified".
        headline: The number that one looks for first: "worst case 75.0 [68.6, 80.5] % of 200 images".
        then: The command that comes next, see `command`, or what it is for.
    """
    parts = (made, headline, then and f"next: {then}")
    return "; ".join(shown(part) for part in parts if part)


def command(*words: object) -> str:
    """A command line of this program, quoted as a shell wants it; words in capitals are for the reader to fill in."""
    return f"lit-pursamere {shlex.join(map(str, words))}"
