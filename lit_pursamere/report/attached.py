"""What lies beside the records of a run, to be shown in a page: pictures, configuration, starts, an audit.

A folder may come from anyone, and a page is passed on: what is shown must lie in the folder itself. A link in it could
lead to a private file.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from pathlib import Path

from lit_pursamere.report.runs import Run, flat
from lit_pursamere.store.manifest import differences, read_manifest

__all__ = ["SEARCH", "Grid", "audit_of", "configuration", "own_file", "pictures", "starts"]

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


def audit_of(run: Run, folder: Path | None = None) -> list[str | Grid]:
    """Paragraphs and tables of an audit of a run's defence, in order; none if there is no such audit.

    Args:
        run: The run.
        folder: Folder of the audit; None: `audit` in the run's, if it is there and of this defence.

    Raises:
        FileNotFoundError: If a folder is named and holds no audit.
        ValueError: If a folder is named whose audit is damaged, or of another defence or other images.
    """
    place = folder or run.folder / "audit"
    content = own_file(place, "audit.json")
    if content is None:
        if folder is not None:
            raise FileNotFoundError(f"no audit in {folder}; name the folder that `lit-pursamere audit` wrote")
        return []
    try:
        require_audited(place, run)
        return parts_in(place / "audit.json", content)
    except ValueError:
        if folder is not None:
            raise
        return []


def require_audited(place: Path, run: Run) -> None:
    """Refuse the audit of something else than a run has evaluated; detectors, which audits leave out, may differ.

    Raises:
        ValueError: If no system of the run has its settings, weights, data and precision; the message names one.
    """
    audit, evaluated = read_manifest(place) or {}, run.manifest
    asked = question(audit, audit.get("defense"), audit.get("weights"))
    settings = evaluated.get("defenses", {})
    found = [differences(asked, question(evaluated, settings.get(name), weights))
             for name, weights in evaluated["weights"].items()]  # fmt: skip
    if nearest := min(found, key=len):
        raise ValueError(
            f"the audit in {place} is of another defence than any system of {run.folder} ({nearest}); audit that run"
        )


def question(manifest: dict, defense: object, weights: object) -> dict[str, object]:
    """What decides the answers of a defence, of the manifest of an audit or a run."""
    parts = {name: part for name, part in defense.items() if name != "detector"} if isinstance(defense, dict) else {}
    return {"data": manifest.get("data"), "precision": manifest.get("precision"), "weights": weights, "defense": parts}


def parts_in(file: Path, content: bytes) -> list[str | Grid]:
    """Paragraphs and tables of an audit.json.

    Raises:
        ValueError: If it holds something else.
    """
    try:
        parts = json.loads(content)
        if all(isinstance(part, str) or is_grid(part) for part in parts):
            return parts
    except (ValueError, TypeError, RecursionError):
        pass
    raise ValueError(f"{file} is damaged; remove it, and run the audit again")


def is_grid(part: object) -> bool:
    """Whether a JSON value is a table: rows of as many words each, at least the head."""
    rows = part if isinstance(part, list) else []
    words = all(isinstance(row, list) and all(isinstance(cell, str) for cell in row) for row in rows)
    return bool(rows) and words and {len(row) for row in rows} == {len(rows[0])}
