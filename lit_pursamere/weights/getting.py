"""Puts the files of named weights into the cache: from their address or from a path; whole and right, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lit_pursamere.progress import Progress
from lit_pursamere.store.atomic import replacing
from lit_pursamere.weights.cache import CACHE, expected, folder_of, mend, note, path_of, present, state, wrong
from lit_pursamere.weights.download import PATIENCE, Patience, Report, download
from lit_pursamere.weights.files import read_content
from lit_pursamere.weights.registry import Entry, File
from lit_pursamere.weights.saving import sha256

__all__ = ["get"]

MB = 1 << 20


def get(
    entry: Entry,
    source: Path | None = None,
    patience: Patience = PATIENCE,
    hidden: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Make sure that the files of an entry are in the cache.

    Several processes may do so at once: one downloads, the others wait.

    Args:
        entry: Of the registry.
        source: A file, or a folder with files of the same names, to be copied instead of a download.
        patience: How long to wait for a server.
        hidden: Whether to report no progress.
        say: Told what was found or done, in lines.

    Returns:
        Path of the file, or of the folder where there are several.

    Raises:
        FileNotFoundError: If it must be brought by hand, and was not; the message says how.
        OSError: If it cannot be downloaded, read or written.
        ValueError: If a file is not the right one; it is never put in its place.
    """
    if entry.shipped:
        return present(entry)
    if source is None and state(entry) == "by hand":
        raise FileNotFoundError(f"{entry.name} is to be fetched by hand: {mend(entry)}")
    folder = folder_of(entry)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make {folder}: {error.strerror}; set {CACHE} to a folder that can be written") from error
    with _alone(folder, entry.name, say):
        for file in entry.files:
            place = folder / file.name
            if source is None and _is_right(file, place, say):
                continue
            if source is not None:
                _bring(file, _among(source, entry, file), place, say)
            elif file.url is None:
                raise FileNotFoundError(f"{entry.name} is to be fetched by hand: {mend(entry)}")
            else:
                _download(file, place, patience, hidden, say)
    return path_of(entry)


@contextmanager
def _alone(folder: Path, name: str, say: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another process is getting {name}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_right(file: File, place: Path, say: Callable[[str], None]) -> bool:
    """Whether a file is there and right; one that is not right is set aside."""
    if not place.is_file():
        return False
    try:
        digest = _accepted(file, place, place, str(place))
    except ValueError as error:
        say(f"{error}; it is set aside as {_aside(place, place).name}")
        return False
    say(f"{place} is there")
    _note(file, place, digest, say)
    return True


def _aside(path: Path, place: Path) -> Path:
    """Keep a file that is not the one of this place under a name by which nobody uses it."""
    return path.replace(place.with_name(f"{place.name}.wrong"))


def _download(file: File, place: Path, patience: Patience, hidden: bool, say: Callable[[str], None]) -> None:
    part = place.with_name(f"{place.name}.part")
    with Progress(file.name, "megabyte", hidden=hidden, every=10.0) as progress:
        download(file, part, _in_megabytes(progress), patience)
    part.with_name(f"{part.name}.of").unlink(missing_ok=True)
    try:
        digest = _accepted(file, part, place, str(file.url))
    except ValueError as error:
        raise ValueError(
            f"{error}; it is not used, but kept as {_aside(part, place)}. It was damaged on the way, or replaced "
            "there: try again, and if that gives the same, look for the right file and give it by --file"
        ) from error
    part.replace(place)
    say(f"downloaded {place}")
    _note(file, place, digest, say)


def _bring(file: File, source: Path, place: Path, say: Callable[[str], None]) -> None:
    digest = _accepted(file, source, place, str(source))
    with replacing(place) as temporary:
        shutil.copyfile(source, temporary)
    say(f"copied to {place}")
    _note(file, place, digest, say)


def _accepted(file: File, path: Path, place: Path, origin: str) -> str:
    """The digest of a file that may take its place.

    Raises:
        ValueError: If it is not the file that is expected there; or, where nothing is known of it, no file of weights.
    """
    want = expected(file, place)
    if said := wrong(file, path, want):
        first = "" if file.sha256 or not want else f" (noted when it first came, in {place.name}.sha256)"
        raise ValueError(f"{origin} {said}{first}")
    if want is None and place.suffix != ".json":
        try:
            read_content(path)
        except ValueError as error:
            raise ValueError(f"{origin} is no file of weights: {str(error).partition(': ')[2]}") from error
    return want or sha256(path)  # what is wanted was found just now


def _among(source: Path, entry: Entry, file: File) -> Path:
    """The file that is meant by what was given."""
    path = source / file.name if source.is_dir() else source
    if len(entry.files) > 1 and not source.is_dir():
        names = " and ".join(one.name for one in entry.files)
        raise ValueError(f"{entry.name} is made of {names}: give the folder that holds both; got the file {source}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return path


def _note(file: File, place: Path, digest: str, say: Callable[[str], None]) -> None:
    """Write down the digest of a file of which none is published, when it first comes."""
    if expected(file, place) is None:
        note(place, digest)
        say(f"no sha256 of {place.name} is published; {digest} is noted, and from now on it must have that")


def _in_megabytes(progress: Progress) -> Report:
    """Report bytes as megabytes; those that had come before say nothing about the time that is left."""
    begun = False

    def report(come: int, total: int) -> None:
        nonlocal begun
        done, progress.total = come // MB, -(-total // MB)
        if not begun:
            progress.advance(done, skipped=True)
        elif done != progress.done:
            progress(done)
        begun = True

    return report
