"""What a folder of results belongs to: a JSON file that binds it to exactly one configuration.

Whoever writes into a folder first states what it is; whoever comes later must mean the same, or is told what differs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.entries import damaged, lacking

__all__ = [
    "check_manifest",
    "differences",
    "differing",
    "digest_of",
    "is_stated",
    "read_manifest",
    "require_stated",
    "run_of",
    "setting_of",
    "settings_of",
    "write_manifest",
]

NAME = "manifest.json"
KEY, FORMAT = "manifest_format", 3  # of the manifest and of what lies beside it; counted up when a meaning changes
SHOWN, WIDEST = 6, 100  # differences in a message, and letters of each value
LONG = 8  # from this length on, a list of settings is told by its ends and a checksum


def read_manifest(folder: Path) -> dict | None:
    """The manifest of a folder, or None if there is none.

    Raises:
        ValueError: If the file is damaged, an entry is of another kind, or the format is another one.
    """
    try:
        manifest = json.loads((folder / NAME).read_text(encoding="utf-8"))
        found = manifest.pop(KEY, 1)
        if wrong := damaged(manifest):
            raise ValueError(wrong)
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder / NAME} is damaged ({error}); remove the folder {folder} and start again") from error
    if found != FORMAT:
        raise ValueError(
            f"{folder} holds results in format {found}, and this version reads and writes format {FORMAT}; use the "
            "version that wrote it, or choose another folder"
        )
    return manifest


def require_stated(folder: Path, manifest: dict, *names: str) -> None:
    """Refuse a manifest that does not state all of these entries, "seed" or "images.count".

    Raises:
        ValueError: If it lacks one; the message names it.
    """
    if absent := lacking(manifest, names):
        raise ValueError(
            f"{folder / NAME} is damaged: it does not state {', '.join(absent)}; remove the folder {folder} and start "
            "again"
        )


def check_manifest(folder: Path, manifest: dict) -> bool:
    """Whether the folder has a manifest already.

    Raises:
        ValueError: If it has another one; the message names the differences.
    """
    if not is_stated(folder, manifest):
        return False
    existing = read_manifest(folder) or {}
    if details := differences(existing, manifest):
        raise ValueError(
            f"{folder} holds results of another configuration ({details}); choose another `output` folder, or remove "
            "this one"
        )
    return True


def is_stated(folder: Path, manifest: dict) -> bool:
    """Whether the folder has a manifest of this kind already, with the same values or others.

    Raises:
        ValueError: If it has one of another kind: fewer than half of their entries have the same names.
    """
    existing = read_manifest(folder)
    if existing and 2 * len(existing.keys() & manifest.keys()) < len(existing.keys() | manifest.keys()):
        told = ", ".join([name for name in existing if name not in manifest][:4])
        raise ValueError(f"{folder} holds something else: its manifest states {told}; choose another folder")
    return existing is not None


def differences(there: dict, now: dict) -> str:
    """What differs between a manifest that was read and one as it would be, in words; empty if nothing does.

    Of many differences the first few are told.
    """
    found = differing(there, json.loads(json.dumps(now)))
    texts = [f"{key}: there {brief(old)}, now {brief(new)}" for key, (old, new) in found.items()]
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return "; ".join([*texts[:SHOWN], *more])


def brief(value: object) -> str:
    """A value in a message; the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}..."


def differing(*settings: dict, prefix: str = "") -> dict[str, list[object]]:
    """Entries that are not the same in all, "attacks.PGD.eps", with the value of each; None where there is no such."""
    found: dict[str, list[object]] = {}
    for key in sorted(set().union(*settings)):
        values: list[Any] = [each.get(key) for each in settings]
        if all(isinstance(value, dict) for value in values):
            found |= differing(*values, prefix=f"{prefix}{key}.")
        elif any(value != values[0] for value in values):
            found[f"{prefix}{key}"] = values
    return found


def write_manifest(folder: Path, manifest: dict) -> None:
    """Write the manifest, whole or not at all."""
    write_whole(folder / NAME, (json.dumps({KEY: FORMAT, **manifest}, indent=2) + "\n").encode())


def digest_of(value: object) -> str:
    """Hex digest of a JSON value; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def run_of(manifest: dict) -> str:
    """The name that rows bear of a run with this manifest."""
    return digest_of(json.loads(json.dumps(manifest)))[:12]


def settings_of(module: Any, depth: int = 1) -> dict[str, object]:
    """What a module was built with.

    That is its own `settings` if it has such; otherwise its class, its public attributes, and the same of the modules
    in it. Weights are no part of it.

    Args:
        module: A torch module, such as a purifier.
        depth: How far to look into modules within modules; deeper ones are told by their class and a checksum.

    Returns:
        JSON values by name, the same in every process.
    """
    if isinstance(told := getattr(module, "settings", None), dict):
        return setting_of(told)
    own = {name: value for name, value in vars(module).items() if not name.startswith("_") and name != "training"}
    found: dict[str, object] = {"class": type(module).__name__}
    found |= {name: setting_of(value) for name, value in own.items()}
    for name, child in module.named_children():
        inner = settings_of(child, max(depth - 1, 0))
        found[name] = inner if depth else {"class": type(child).__name__, "sha256": digest_of(inner)[:12]}
    return found


def setting_of(value: object) -> Any:
    """A setting as a JSON value, short, and without anything that changes from process to process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [setting_of(item) for item in value]
        if len(items) < LONG:
            return items
        return f"{len(items)} values, {items[0]} to {items[-1]}, sha256 {digest_of(items)[:12]}"
    if isinstance(value, dict):
        return {str(key): setting_of(item) for key, item in value.items()}
    if isinstance(value, type):
        return value.__qualname__
    if dataclasses.is_dataclass(value):
        fields = {field.name: setting_of(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if hasattr(value, "named_children"):
        return settings_of(value, depth=0)
    return getattr(value, "__qualname__", type(value).__qualname__)
