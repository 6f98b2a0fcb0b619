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
    manifest = json.loads(json.dumps(manifest))
    changed = sorted(key for key in manifest.keys() | existing.keys() if manifest.get(key) != existing.get(key))
    if changed:
        details = "; ".join(f"{key}: there {existing.get(key)!r}, now {manifest.get(key)!r}" for key in changed)
        raise ValueError(
            f"{folder} holds results of another configuration ({details}); choose another `output` folder, or remove "
            "this one"
        )
    return True


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest, whole or not at all."""
    temporary = folder / f"{NAME}.part"
    try:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OSError(f"cannot write {temporary}: {error.strerror}") from error
    os.replace(temporary, folder / NAME)
