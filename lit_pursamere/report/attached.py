"""What lies beside the records of a run, to be shown in a page: pictures, configuration, starts, an audit.

A folder may come from anyone, and a page is passed on: what is shown must lie in the folder itself. A link in it could
lead to a private file.
"""

from __future__ import annotations

import json
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from lit_pursamere.report.runs import Run, flat
from lit_pursamere.store.manifest import read_manifest

__all__ = ["SEARCH", "Grid", "audit_of", "audit_tables", "configuration", "own_file", "pictures", "starts"]

LARGEST = 2**24  # bytes of a file that is shown
SEARCH = "The purifier's search, level by level: reconstruction error, distance from the input, ascent."
PICTURES = {
    "pictures.png": "Clean, attacked and purified images under the last attack, and ten times what each step changed.",
    "levels.png": SEARCH,
}
PNG = b"\x89PNG\r\n\x1a\n"
Grid = list[list[str]]  # a table: rows of cells, the head first


def own_file(folder: Path, name: str) -> bytes | None:
    """The content of a regular file in a folder; None if there is none, it is a link, or it is larger than LARGEST."""
    no_link = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # nor wait for whoever writes to a pipe
    with (
        suppress(OSError),
        open(folder / name, "rb", opener=lambda path, flags: os.open(path, flags | no_link)) as file,
    ):
        info = os.fstat(file.fileno())
        if stat.S_ISREG(info.st_mode) and info.st_size <= LARGEST:
            return file.read(LARGEST)
    return None


def pictures(run: Run) -> dict[str, bytes]:
    """PNG files that a test has drawn, by what they show."""
    found = {what: own_file(run.folder, name) for name, what in PICTURES.items()}
    return {what: content for what, content in found.items() if content and content.startswith(PNG)}


def configuration(run: Run) -> str:
    """The run's config.yaml; empty if there is none."""
    return (own_file(run.folder, "config.yaml") or b"").decode(errors="replace")


def starts(run: Run) -> list[dict[str, str]]:
    """What environment.jsonl says of every start of a run, oldest first: time, command, versions, hardware."""
    found = []
    for line in (own_file(run.folder, "environment.jsonl") or b"").decode(errors="replace").splitlines():
        with suppress(ValueError, RecursionError):
            entry = json.loads(line)
            found += [{key: str(value) for key, value in flat(entry).items()}] if isinstance(entry, dict) else []
    return found


def audit_of(run: Run, folder: Path | None = None) -> str:
    """The audit.md of an audit of a run's defence; empty if there is none.

    Args:
        run: The run.
        folder: Folder of the audit; None: `audit` in the run's, if it is there and of this defence.

    Raises:
        FileNotFoundError: If a folder is named and holds no audit.
        ValueError: If a folder is named whose audit is of a defence with other weights.
    """
    place = folder or run.folder / "audit"
    content = own_file(place, "audit.md")
    if content is None:
        if folder is not None:
            raise FileNotFoundError(f"no audit in {folder}; name the folder that `lit-pursamere audit` wrote")
        return ""
    try:
        weights = (read_manifest(place) or {}).get("weights")
        if weights not in run.manifest["weights"].values():
            raise ValueError(
                f"the audit in {place} is of other weights than any system of {run.folder}; audit that run"
            )
    except ValueError:
        if folder is not None:
            raise
        return ""
    return content.decode(errors="replace")


def audit_tables(markdown: str) -> list[str | Grid]:
    """Paragraphs and tables of a Markdown text as this package writes it, in order, its escapes undone."""
    found: list[str | Grid] = []
    for line in markdown.splitlines():
        if line.startswith("|"):
            cells = [re.sub(r"\\(?=[!-/:-@\[-`{-~])", "", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not all(set(cell) <= {"-"} for cell in cells):
                if not found or isinstance(found[-1], str):
                    found.append([])
                found[-1].append(cells)  # type: ignore[union-attr]
        elif line.strip():
            found.append(line.strip())
    return found
