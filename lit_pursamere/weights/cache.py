"""Where the files of named weights are on this machine, and whether they are the right ones.

    checkpoints/FILE                      what comes with the package
    CACHE/weights/NAME/FILE               what was downloaded, or brought
    CACHE/weights/NAME/FILE.sha256        what it hashed to when it came, where that was not known before

A name stands for its files wherever a weight file is wanted; nothing is downloaded because it is named.
"""

from __future__ import annotations

from pathlib import Path

from lit_pursamere.shipped import home, shipped
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.user_cache import CACHE, cache_folder
from lit_pursamere.weights.registry import Entry, File, entries
from lit_pursamere.weights.saving import sha256

__all__ = [
    "CACHE",
    "HERE",
    "cache_folder",
    "expected",
    "folder_of",
    "is_here",
    "located",
    "mend",
    "note",
    "path_of",
    "present",
    "state",
    "wrong",
]

HERE = ("shipped", "cached")  # states of what is on this machine


def folder_of(entry: Entry) -> Path:
    """Folder of an entry's files."""
    return home("checkpoints") if entry.shipped else cache_folder() / "weights" / entry.name


def path_of(entry: Entry) -> Path:
    """Its file, or its folder where it is made of several."""
    folder = folder_of(entry)
    return folder / entry.files[0].name if len(entry.files) == 1 else folder


def state(entry: Entry) -> str:
    """`shipped`, `cached`, `downloadable` or `by hand`; `missing`: a checkout or package without its checkpoints."""
    here = all((folder_of(entry) / file.name).is_file() for file in entry.files)
    if entry.shipped:
        return "shipped" if here else "missing"
    return "cached" if here else "by hand" if entry.by_hand else "downloadable"


def located(path: str | Path) -> Path:
    """The path of weights that are given by their path or by their name.

    Args:
        path: What is there under this path is meant; otherwise an entry of the registry.

    Returns:
        The path, or that of the entry's file or folder. Files of the cache are those that were downloaded.

    Raises:
        FileNotFoundError: If an entry's files are not on this machine; the message says how to get them.
        ValueError: If a file of the cache was changed.
    """
    path = shipped(path)
    entry = None if path.exists() else entries().get(path.as_posix())
    return path if entry is None else present(entry)


def is_here(path: str | Path) -> bool:
    """Whether weights that are given by their path or by their name are on this machine."""
    entry = None if Path(path).exists() else entries().get(Path(path).as_posix())
    return Path(path).exists() if entry is None else state(entry) in HERE


def present(entry: Entry) -> Path:
    """The file or folder of an entry, which is on this machine and right; raises as `located`."""
    if (found := state(entry)) not in HERE:
        raise FileNotFoundError(f"the weights {entry.name} are not on this machine: {mend(entry)}")
    for file in entry.files if found == "cached" else ():
        place = folder_of(entry) / file.name
        if (want := expected(file, place)) is None:
            raise ValueError(f"{place} was never checked; lit-pursamere weights get {entry.name} does it")
        if said := wrong(file, place, want):
            raise ValueError(f"{place} {said}; lit-pursamere weights get {entry.name} gets it again")
    return path_of(entry)


def mend(entry: Entry) -> str:
    """How to get the files of an entry."""
    if entry.shipped:
        return f"{path_of(entry)} is part of the package; install it again"
    if entry.by_hand:
        return f"{entry.by_hand}; then: lit-pursamere weights get {entry.name} --file FILE"
    return f"lit-pursamere weights get {entry.name} downloads them"


def expected(file: File, place: Path) -> str | None:
    """The digest that a file must have: the published one, or that of its first download; None before that."""
    if file.sha256:
        return file.sha256
    noted = _record(place)
    return noted.read_text(encoding="utf-8").split(maxsplit=1)[0] if noted.is_file() else None


def note(place: Path, digest: str) -> None:
    """Write down what a file hashed to, as sha256sum does."""
    write_whole(_record(place), f"{digest}  {place.name}\n".encode())


def wrong(file: File, place: Path, want: str | None) -> str | None:
    """What is wrong with a file; None if nothing is.

    Args:
        file: What is known of it.
        place: Where it lies.
        want: The digest that it must have, if any is known.
    """
    size = place.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size:,} bytes, and should have {file.size:,}"
    if want is None or (found := sha256(place)) == want:
        return None
    return f"has the sha256 {found}, and should have {want}"


def _record(place: Path) -> Path:
    return place.with_name(f"{place.name}.sha256")
