"""What a folder of results belongs to: a JSON file that binds it to exactly one configuration.

Whoever writes into a folder first states what it is; whoever comes later must mean the same, or is told what differs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["check_manifest", "read_manifest", "write_manifest"]

NAME = "manifest.json"


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a folder, or None if there is none.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        return json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{folder / NAME} is damaged ({error}); remove the folder {folder} and start again") from error


def check_manifest(folder: Path, manifest: dict) -> bool:
    """Whether the folder has a manifest already.

    Raises:
        ValueError: If it has another one; the message names the differences.
    """
    existing = read_manifest(folder)
    if existing is None:
        return False
    changed = _differences(existing, json.loads(json.dumps(manifest)))
    if changed:
        details = "; ".join(f"{key}: there {there!r}, now {now!r}" for key, there, now in changed)
        raise ValueError(
            f"{folder} holds results of another configuration ({details}); choose another `output` folder, or remove "
            "this one"
        )
    return True


def _differences(there: dict, now: dict, prefix: str = "") -> list[tuple[str, object, object]]:
    """Entries that differ, "attacks.PGD.eps", with both values; None where there is no such entry."""
    found = []
    for key in sorted(there.keys() | now.keys()):
        old, new = there.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append((f"{prefix}{key}", old, new))
    return found


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest, whole or not at all."""
    temporary = folder / f"{NAME}.part"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(json.dumps(manifest, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())  # or a crash could leave an empty file under the final name
        os.replace(temporary, folder / NAME)
    except OSError as error:
        raise OSError(f"cannot write {temporary}: {error.strerror}; mend that and run the command again") from error
