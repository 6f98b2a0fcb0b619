"""Evaluations made by hand: rows from strings of + and -, and folders with manifest and records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lit_pursamere.store.manifest import write_manifest


def make_rows(system: str, attack: str, last: str, any: str | None = None, **more: object) -> list[dict]:
    """One row per character of `last`: + right, - wrong, or the number of right evaluations; `any` likewise.

    More entries hold for every row, or are lists with one value per row.
    """

    def votes(character: str) -> int:
        return {"+": 1, "-": 0}[character] if character in "+-" else int(character)

    rows = []
    for index, character in enumerate(last):
        row = {"dataset": "digits", "system": system, "attack": attack, "index": index, "evaluations": 1}
        row |= {"votes_last": votes(character), "votes_any": None if any is None else votes(any[index])}
        row |= {key: value[index] if isinstance(value, list) else value for key, value in more.items()}
        rows.append(row)
    return rows


def describe(eps: float = 0.15, steps: int = 20, view: str = "bpda", norm: str = "linf") -> dict:
    """An attack as a manifest describes it, with some of its settings."""
    threat = {"norm": norm, "eps": eps}
    return {"class": "PGD", "threat": threat, "view": view, "steps": steps, "step_size": None, "eot": 1}


@pytest.fixture
def rows() -> Callable[..., list[dict]]:
    return make_rows


@pytest.fixture
def pgd() -> Callable[..., dict]:
    return describe


@pytest.fixture
def write_run(tmp_path) -> Callable[..., Path]:
    """A function that writes an evaluation: write_run(name, rows, attacks, **entries of the manifest)."""

    def write(name: str, records: list[dict], attacks: dict, **entries: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        systems = {system: f"{system}()" for system in dict.fromkeys(row["system"] for row in records)}
        manifest = {
            "data": "digits, test images",
            "images": {"count": len({row["index"] for row in records}), "digest": "0f"},
            "systems": systems,
            "weights": dict.fromkeys(systems, "ab"),
            "attacks": attacks | {row["attack"]: {} for row in records if row["attack"] not in ("clean", *attacks)},
            "evaluations": 1,
            "success": "any",
            "seed": 0,
        }
        write_manifest(folder, manifest | entries)
        (folder / "records-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
        return folder

    return write
