"""Every bad input ends soon, in little memory, with status 1 or 2 and one line that names the value or the place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.faults.inputs import Bad
from benchmarks.faults.machine import Ended, Machine
from benchmarks.faults.results import PASSED, readable
from benchmarks.faults.world import VERBS, words

__all__ = ["attempts", "error_of", "judge"]

ERROR = "lit-pursamere: error: "
ESCAPED = Path("/tmp/escaped.npy")  # where a row of inputs/data.py would write
CPU, MEMORY, LONGEST = 10.0, 2 * 2**30, 700
HINT = re.compile(r"^\(LIT_PURSAMERE_TRACEBACK|^\(.*traceback.*\)$|^stage \d+ ended|^Stage \d+ of", re.IGNORECASE)


def attempts(
    machine: Machine, world: Path, cases: Sequence[Bad], base: float, memory: int
) -> Iterator[tuple[str, Callable[[], dict]]]:
    """A case's name, and what tries it; before them every verb without any mistake, or the others would prove nothing.

    Args:
        machine: Starts commands.
        world: The folder that is copied for each.
        cases: The bad inputs.
        base: CPU seconds that a command takes to import.
        memory: Bytes that it holds then.
    """

    def tried(bad: Bad, judged: Callable[[Ended], str]) -> Callable[[], dict]:
        return lambda: {"command": bad.line, **attempt(machine, world, bad, judged)}

    for verb in VERBS:
        yield f"no mistake: {verb}", tried(Bad(verb, verb, ""), succeeds)
    for bad in cases:
        yield f"{bad.name}: {bad.line}", tried(bad, partial(judge, named=bad.named, base=base, memory=memory))


def succeeds(ended: Ended) -> str:
    return PASSED if ended.status == 0 and not ended.hung else f"fails without any mistake: status {ended.status}"


def attempt(machine: Machine, world: Path, bad: Bad, judged: Callable[[Ended], str]) -> dict:
    """Spoil a copy of the world, run the command there, and judge how it ended."""
    place = world.with_name("case")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(world, place, symlinks=True)
    try:
        if bad.setup is not None:
            bad.setup(place)
    except (KeyError, OSError, IndexError, RuntimeError) as error:
        return {"outcome": f"no such thing to spoil: {error}"}
    environment = dict(pair.split("=", 1) for pair in bad.environment.split())
    ended = machine.run(words(bad.line), place, environment, seconds=240, cpu=60, memory=6 * 2**30)
    outcome = judged(ended)
    escaped = [file for file in (place / "PWNED", place.parent / "escaped.npy", ESCAPED) if file.exists()]
    for file in escaped:
        outcome = f"ran or wrote what it must not: {file.name}"
        file.unlink()
    said = readable(error_of(ended.text) or ended.text)
    return {"outcome": outcome, "status": ended.status, "cpu": ended.cpu, "memory": ended.memory, "said": said}


def judge(ended: Ended, named: str, base: float = 0.0, memory: int = 0) -> str:
    """PASSED, or what is wrong with the end of a command that was given a bad input."""
    if ended.hung:
        return "hang"
    if ended.status < 0:
        return f"signal {-ended.status}"
    if "Traceback (most recent call last)" in ended.text:
        return "traceback"
    if ended.status == 0:
        return "accepted"
    if ended.status not in (1, 2):
        return f"status {ended.status}"
    if ended.cpu - base > CPU:
        return f"slow: {ended.cpu - base:.0f} s of CPU"
    if ended.memory - memory > MEMORY:
        return f"memory: {(ended.memory - memory) / 2**30:.1f} GiB"
    if ended.status == 2 and ended.text.startswith("usage:") and ERROR not in ended.text:
        return PASSED  # a word is missing, and all that could stand there is told
    if ended.text.count(ERROR) != 1:
        return f"{ended.text.count(ERROR)} error lines"
    line, rest = error_of(ended.text), ended.text.partition(ERROR)[2].splitlines()[1:]
    more = [one for one in rest if one.strip() and not HINT.match(one)]
    if more and not any(one.startswith("usage:") for one in more):
        return f"several lines: {len(more) + 1}"
    if len(line) > LONGEST:
        return f"long: {len(line)} characters"
    if not re.search(named, line, re.IGNORECASE):
        return f"unclear: does not name {named}"
    return PASSED


def error_of(text: str) -> str:
    """The line of an error."""
    return (text.partition(ERROR)[2].splitlines() or [""])[0]
