"""A disk that is full, over quota or read-only from some point on; files that may not grow; a removed folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from benchmarks.faults.bad_inputs import error_of, judge
from benchmarks.faults.interrupted import TWO, WRITERS, Bench, Whole, sample, told, where
from benchmarks.faults.machine import Ended
from benchmarks.faults.results import PASSED, readable

__all__ = ["attempts"]

ERRORS = {"ENOSPC": "No space left|disk is full", "EDQUOT": "quota", "EROFS": "read-only"}
SIZES = (4096, 20_000, 100_000)  # what the command prints goes into a file, too
GROWING = ("open", "write", "fsync", "rename", "mkdir")


def attempts(bench: Bench, count: int, seed: int) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Every error for every verb that writes, so many of each; then limits of size, then the removed folder."""
    for number in range(count):
        for line in (*WRITERS, "PREDICT" + TWO):
            for error in ERRORS:
                name = f"{error}: {line} #{number}"
                yield name, bench.tried(line, failing(bench, error, f"{seed} {name}"))
            name = f"removed: {line} #{number}"
            yield name, bench.tried(line, removed(bench, f"{seed} {name}"))
    for line in WRITERS:
        for size in SIZES:
            yield f"files of {size} bytes: {line}", bench.tried(line, limited(bench, size))


def failing(bench: Bench, error: str, seed: str) -> Callable[[Whole], dict]:
    def attempt(whole: Whole) -> dict:
        early = [point for point in whole.points if point["kind"] in GROWING and point["when"] != "after"]
        [point] = sample(early, 1, seed)
        ended = bench.fault(whole.line, what=error, **where(point))
        return after(bench, whole, ended, ERRORS[error], told(point))

    return attempt


def limited(bench: Bench, size: int) -> Callable[[Whole], dict]:
    def attempt(whole: Whole) -> dict:
        ended = bench.fault(whole.line, limits={"size": size})
        return after(bench, whole, ended, "File too large", f"files of at most {size} bytes")

    return attempt


def removed(bench: Bench, seed: str) -> Callable[[Whole], dict]:
    """The folder that a point is in goes, while the command writes there."""

    def attempt(whole: Whole) -> dict:
        inner = [
            point for point in whole.points if "/" in point["path"] and not point["path"].startswith(("run/", "set/"))
        ]
        if not inner:
            return {"outcome": PASSED, "said": "writes into no folder of its own"}
        [point] = sample(inner, 1, seed)
        victim = bench.place / point["path"].partition("/")[0]
        ended = bench.fault(whole.line, what="delete", **where(point), victim=str(victim))
        return after(bench, whole, ended, "gone|no such|removed|deleted", f"{victim.name} removed at {told(point)}")

    return attempt


def after(bench: Bench, whole: Whole, ended: Ended, named: str, at: str) -> dict:
    """One line that says what is the matter, unless nothing is missing; then the same command comes to the same end."""
    line = error_of(ended.text)
    missing = [difference for difference in bench.differences(whole) if not is_told(difference, ended.text)]
    then, said = bench.again(whole.line)
    if then == PASSED:
        said = line or readable(ended.text)
        unnoticed = f"not noticed: {missing[0]}" if missing else PASSED
        then = judge(ended, named, base=ended.cpu) if ended.status else unnoticed  # its work may take long
    return {"first": ended.status, "outcome": then, "said": f"{at}: {said}"}


def is_told(difference: str, text: str) -> bool:
    """Whether a picture is missing of which the command has said so, or a temporary file is left.

    From a disk that is read-only it cannot be removed; the next command does.
    """
    name, missing, _ = difference.partition(" is missing")
    picture = re.escape(name.rpartition("/")[2])
    told = re.search(rf"there is no (\S+/)?{picture} \(", text) is not None
    return (bool(missing) and name.endswith(".png") and told) or difference.endswith(".part is left over")
