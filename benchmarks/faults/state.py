"""What a folder holds, without what may differ between two runs: times, process numbers, the order of rows."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["differences", "leftovers", "snapshot"]

FREE = {"seconds", "stored", "started", "ended", "date", "created", "hours", "time", "duration", "run", "host", "pid",
        "core_hours"}  # fmt: skip
SKIPPED = re.compile(r"(^|/)(environment\.jsonl|costs?\.jsonl?|events\.out\.tfevents.*|images-\d+\.float\d+|.*\.log)$")
LEFTOVER = re.compile(r"\.part$|\.tmp$|~$|\.lock\.|traceback", re.IGNORECASE)
TIMED = re.compile(r"s/image|seconds|hours|time|cost", re.IGNORECASE)  # columns of tables


def snapshot(folder: Path, outside: dict[str, object] | None = None) -> dict[str, object]:
    """Content by file name, in a form that can be compared.

    Args:
        folder: What is looked at, links to folders left out.
        outside: A snapshot of what lay there before the command; what has not changed is left out.
    """
    found: dict[str, object] = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and not any(parent.is_symlink() for parent in file.parents) and not SKIPPED.search(name):
            found[name] = read(file)
    return {name: value for name, value in found.items() if (outside or {}).get(name) != value}


def read(file: Path) -> object:
    try:
        return READERS.get(file.suffix, digest)(file)
    except Exception as error:  # whatever the content is, it is not what another run has there
        return f"unreadable: {type(error).__name__}: {error}"


def digest(file: Path) -> str:
    return "a lock" if file.name.startswith(".lock") else hashlib.sha256(file.read_bytes()).hexdigest()


def plain(value: Any) -> Any:
    """A value without what is free."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if str(key).rpartition("/")[2] not in FREE}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, str) and value[:1] in "{[":
        try:
            return plain(json.loads(value))
        except ValueError:
            return value
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        content = value.contiguous().flatten().view(dtype=_bytes()) if value.numel() else value
        return [str(value.dtype), list(value.shape), hashlib.sha256(content.numpy().tobytes()).hexdigest()]
    return repr(value) if isinstance(value, float) else value


def _bytes() -> Any:
    import torch

    return torch.uint8


def json_file(file: Path) -> object:
    return plain(json.loads(file.read_text()))


def rows(file: Path) -> list[str]:
    """Rows in no order, each with the image that it names instead of the image's place."""
    found = []
    for line in file.read_text().splitlines():
        row = json.loads(line)
        if isinstance(row, dict) and row.get("stored"):
            row["image"] = image(file.parent, *row["stored"])
        found.append(json.dumps(plain(row), sort_keys=True))
    return sorted(found)


def image(folder: Path, rank: int, position: int) -> str:
    shape = json.loads((folder / "manifest.json").read_text())["images"]["shape"]
    stored = next(folder.glob(f"images-{rank}.float*"))
    pixels = np.memmap(stored, stored.suffix[1:], "r").reshape(-1, *shape)
    return hashlib.sha256(pixels[position : position + 2].tobytes()).hexdigest()


def table(file: Path) -> list[list[str]]:
    """A table without the columns of times."""
    text = file.read_text()
    separator = {".md": "|", ".tex": "&", ".csv": ","}[file.suffix]
    lines = (
        list(csv.reader(io.StringIO(text)))
        if separator == ","
        else [line.split(separator) for line in text.splitlines()]
    )
    timed: set[int] = set()
    kept = []
    for cells in lines:
        if len(cells) > 1 and (headed := {number for number, cell in enumerate(cells) if TIMED.search(cell)}):
            timed = headed
        kept.append([cell.strip() for number, cell in enumerate(cells) if len(cells) == 1 or number not in timed])
    return [[re.sub(r"-{3,}", "---", cell) for cell in cells] for cells in kept]


def checkpoint(file: Path) -> object:
    import torch

    return plain(torch.load(file, map_location="cpu", weights_only=True))


def safetensors(file: Path) -> object:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return [plain(opened.metadata() or {}), {name: plain(opened.get_tensor(name)) for name in opened.keys()}]  # noqa: SIM118


READERS: dict[str, Callable[[Path], object]] = {
    ".json": json_file, ".jsonl": rows, ".md": table, ".csv": table, ".tex": table, ".ckpt": checkpoint,
    ".safetensors": safetensors,
}  # fmt: skip


def merged(state: dict[str, object]) -> dict[str, object]:
    """Rows of all processes together: which of them wrote a row is free."""
    found: dict[str, object] = {}
    for name, value in state.items():
        plain_name = re.sub(r"records-\d+", "records", name)
        if plain_name != name and isinstance(value, list):
            value = sorted([*found.get(plain_name, []), *value])  # type: ignore[misc]
        if not re.search(r"(^|/)\.lock", name):  # a lock file may stay, and one process has fewer than two
            found[plain_name] = value
    return found


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """What is not the same in two snapshots."""
    a, b = merged(one), merged(other)
    told = [f"{name} is missing" for name in sorted(a.keys() - b.keys())]
    told += [f"{name} is left over" for name in sorted(b.keys() - a.keys())]
    return told + [
        f"{name} differs{where(a[name], b[name])}" for name in sorted(a.keys() & b.keys()) if a[name] != b[name]
    ]


def where(one: object, other: object, path: str = "") -> str:
    """The first place at which two values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                return where(one.get(key), other.get(key), f"{path}.{key}")
    if isinstance(one, list) and isinstance(other, list):
        if len(one) != len(other):
            return f" at {path or 'top'}: {len(one)} entries, then {len(other)}"
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                return where(a, b, f"{path}[{number}]")
    return f" at {path}: {str(one)[:60]} / {str(other)[:60]}" if path else ""


def leftovers(state: dict[str, object]) -> list[str]:
    """Files that no finished run leaves behind."""
    return [name for name in state if LEFTOVER.search(name)]
