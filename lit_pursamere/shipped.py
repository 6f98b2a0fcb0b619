"""What comes with the package, found by name from any folder: configurations, and small weights.

    configs/digits/robustness.yaml         of the current folder, if there is such a file; else the shipped one
    digits/robustness                      the same, in short
    purifier: pursamere                    the shipped one of that part: configs/purifier/pursamere.yaml
    checkpoints/digits/score.safetensors   of the current folder, or the shipped one

An installed package holds both folders; in a checkout they lie beside it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lit_pursamere.names import meant

__all__ = ["FOLDERS", "configuration", "names_of", "part", "require_known", "shipped"]

FOLDERS = ("configs", "checkpoints")
PACKAGE = Path(__file__).parent
WORD = re.compile(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*")  # no class is called so

# The parts of a configuration whose files have a folder of their own.
KINDS = {
    "purifier": "purifier", "surrogate": "purifier", "score_model": "score_model", "classifier": "classifier",
    "network": "network", "data": "data", "attacks": "attacks",
}  # fmt: skip


def home(folder: str) -> Path:
    """Where one of FOLDERS lies."""
    inside = PACKAGE / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


def shipped(path: str | Path) -> Path:
    """A path as it is, unless only the package has something there.

    Args:
        path: Relative to the current folder, `checkpoints/digits/score.safetensors`, or any other one.
    """
    path = Path(path)
    if path.is_absolute() or path.parts[:1] not in {(folder,) for folder in FOLDERS} or ".." in path.parts:
        return path
    within = home(path.parts[0]).joinpath(*path.parts[1:])
    return within if not path.exists() and within.exists() else path


def configuration(name: str | Path) -> Path | None:
    """The shipped configuration of a name, `digits/robustness` or `configs/digits/robustness.yaml`; None if none."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        return None
    below = path.relative_to("configs") if path.parts[0] == "configs" else path
    if not below.name:
        return None
    within = home("configs") / below.with_name(f"{below.name.removesuffix('.yaml')}.yaml")
    return within if within.is_file() else None


def part(word: str, path: Sequence[str]) -> Path | None:
    """The shipped file that a word names where it stands for a part of a configuration.

    Args:
        word: `pursamere`.
        path: The keys that lead there, `model`, `purifier`; of an attack `model`, `attacks` and its name.

    Returns:
        None if it names none.
    """
    kind = kind_of(path)
    if kind is None or not WORD.fullmatch(word):
        return None
    file = home("configs") / kind / f"{word}.yaml"
    return file if file.is_file() else None


def require_known(word: str, path: Sequence[str]) -> None:
    """Raise ValueError if a word where a part of a configuration stands is none of its files, and no class."""
    kind = kind_of(path)
    if kind is not None and WORD.fullmatch(word) and part(word, path) is None:
        known = names_of(path)
        hint = meant(word, known) or f"; known: {', '.join(known)}"
        raise ValueError(f"no {kind.replace('_', ' ')} is called {word}{hint}")


def kind_of(path: Sequence[str]) -> str | None:
    """The folder of the files that stand there; None if no folder is for them."""
    *_, before, last = ("", *".".join(path).split("."))
    return {"attacks": "attack", "attacks+": "attack", "purifiers": "purifier"}.get(before) or KINDS.get(last)


def names_of(path: Sequence[str] = ()) -> list[str]:
    """The words that name shipped files where such keys lead; without keys, the names of all configurations."""
    root = home("configs")
    if path:
        return sorted(file.stem for file in (root / (kind_of(path) or "-")).glob("*.yaml"))
    return sorted(file.relative_to(root).with_suffix("").as_posix() for file in root.rglob("*.yaml"))
