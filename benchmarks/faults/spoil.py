"""Ways to spoil a file of the world; each returns a function of the folder."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.faults.world import FILES, arrays

Setup = Callable[[Path], None]


def both(*setups: Setup) -> Setup:
    return lambda place: [setup(place) for setup in setups] and None


def text(name: str, content: str | bytes) -> Setup:
    """A file with this content."""

    def setup(place: Path) -> None:
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    return setup


def replaced(name: str, old: str, new: str) -> Setup:
    """A file of the world with something else in it."""
    if FILES[name].count(old) == 0:
        raise ValueError(f"{name} holds no {old!r}")
    return text(name, FILES[name].replace(old, new, 1))


def added(name: str, more: str | bytes) -> Setup:
    return text(name, FILES[name].encode() + (more if isinstance(more, bytes) else more.encode()))


def cut(name: str, size: int) -> Setup:
    """The first `size` bytes of a file (negative: all but so many)."""
    return lambda place: text(name, (place / name).read_bytes()[:size])(place)


def flipped(name: str, at: int) -> Setup:
    """One bit of a byte of a file (negative: from the end; it is the middle for 0)."""

    def setup(place: Path) -> None:
        content = bytearray((place / name).read_bytes())
        content[at or len(content) // 2] ^= 1
        (place / name).write_bytes(content)

    return setup


def removed(name: str) -> Setup:
    def setup(place: Path) -> None:
        for file in place.glob(name):
            shutil.rmtree(file) if file.is_dir() else file.unlink()

    return setup


def folder(name: str) -> Setup:
    """An empty folder, also in place of a file."""

    def setup(place: Path) -> None:
        if (place / name).is_file():
            (place / name).unlink()
        (place / name).mkdir(parents=True, exist_ok=True)

    return setup


def copied(name: str, to: str) -> Setup:
    def setup(place: Path) -> None:
        source, target = place / name, place / to
        if target.is_dir() and source.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)

    return setup


def json_of(name: str, change: Callable[[Any], Any]) -> Setup:
    """A JSON file with a change; the change may return another content."""

    def setup(place: Path) -> None:
        content = json.loads((place / name).read_text())
        found = change(content)
        (place / name).write_text(json.dumps(content if found is None else found))

    return setup


def key(name: str, **values: Any) -> Setup:
    return json_of(name, lambda content: content.update(values))


def without(name: str, *keys: str) -> Setup:
    return json_of(name, lambda content: [content.pop(one) for one in keys] and None)


def row(**values: Any) -> Setup:
    """The last row of the run's records with other values; `...` leaves a key out."""

    def setup(place: Path) -> None:
        file = sorted((place / "run").glob("records*.jsonl"))[0]
        *others, last = file.read_text().splitlines()
        content = json.loads(last) | values
        kept = {name: value for name, value in content.items() if value is not ...}
        file.write_text("\n".join([*others, json.dumps(kept)]) + "\n")

    return setup


def unsigned(name: str) -> Setup:
    """The rows of a run in this folder, without saying of which run they are."""

    def setup(place: Path) -> None:
        for file in (place / name).glob("records*.jsonl"):
            rows = map(json.loads, file.read_text().splitlines())
            own = [{key: value for key, value in row.items() if key != "run"} for row in rows]
            file.write_text("".join(json.dumps(row) + "\n" for row in own))

    return setup


def npz(name: str = "bad.npz", **changes: np.ndarray | None) -> Setup:
    """Arrays of four images, with changes."""
    return lambda place: np.savez(place / name, **arrays(**changes))


def npy(name: str, array: np.ndarray, **options: Any) -> Setup:
    return lambda place: np.save(place / name, array, **options)


def picture(name: str, array: np.ndarray, kind: str | None = None, **options: Any) -> Setup:
    def setup(place: Path) -> None:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(place / name, kind, **options)

    return setup


def zipped(name: str, **members: bytes) -> Setup:
    def setup(place: Path) -> None:
        with zipfile.ZipFile(place / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member.replace("__", "/"), content)

    return setup


def tensors(name: str, change: Callable[[dict], dict | None], of: str = "net.safetensors") -> Setup:
    """A safetensors file with changed tensors."""

    def setup(place: Path) -> None:
        from safetensors.torch import load_file, save_file

        content = {key: value.clone() for key, value in load_file(place / of).items()}
        found = change(content)
        save_file(content if found is None else found, place / name)

    return setup


def saved(name: str, content: Callable[[], Any], **options: Any) -> Setup:
    """A file of torch.save."""

    def setup(place: Path) -> None:
        import torch

        torch.save(content(), place / name, **options)

    return setup


def pickled(name: str, content: bytes) -> Setup:
    return text(name, content)
