"""A command with a fault in it, then the same command again: its folder must be that of a run without a fault."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.events import VARIABLE
from benchmarks.faults.machine import Ended, Machine
from benchmarks.faults.results import PASSED, readable
from benchmarks.faults.state import differences, leftovers, snapshot
from benchmarks.faults.world import words

__all__ = ["TWO", "WRITERS", "Bench", "Whole", "sample", "told", "where"]

TWO = " --trainer.devices 2 --trainer.strategy ddp"

# Every verb that writes, and how many of a hundred kills are for it.
WRITERS = {
    "FIT": 12, "SCORE": 6, "PREDICT": 10, "KEEP": 14, "COMPARE": 6, "AUDIT": 6, "SIMILARITY": 5, "PURIFY": 6,
    "ARRAY": 6, "EXPERIMENT": 8, "FIGURES": 4, "REVERIFY": 2, "INSPECT": 2, "FIGURE": 2, "CONVERT": 3,
    "EVALUATE": 6,
}  # fmt: skip


@dataclass
class Whole:
    """A run without a fault.

    Args:
        line: The command.
        state: What it made.
        points: Where faults can be, as `events` logs them.
    """

    line: str
    state: dict[str, object]
    points: list[dict] = field(default_factory=list)


class Bench:
    """Runs commands with faults in copies of one world, and remembers what they are without.

    Args:
        machine: Starts commands.
        world: The folder that is copied for each.
        bytes: Whether to remember every byte that is written.
    """

    def __init__(self, machine: Machine, world: Path, bytes: bool = False) -> None:
        self.machine, self.world, self.bytes = machine, world, bytes
        self.place = world.with_name("case")  # always the same, because runs write its name into their files
        self.before = snapshot(world)
        self.known: dict[str, Whole] = {}

    def fresh(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.world, self.place, symlinks=True)

    def whole(self, line: str) -> Whole:
        """Run a command without a fault, twice, to know what is always the same.

        Raises:
            RuntimeError: If it does not succeed, or makes something else the second time.
        """
        if line not in self.known:
            found, log = [], self.world.with_name("points.jsonl")
            for _ in range(2):
                log.unlink(missing_ok=True)
                ended = self.fault(line, seconds=300, log=str(log), bytes=self.bytes)
                if ended.status:
                    raise RuntimeError(f"{line} ended with status {ended.status}: {readable(ended.text)}")
                found.append(snapshot(self.place, self.before))
            if different := differences(*found):
                raise RuntimeError(f"{line} is not repeatable: {', '.join(different)}")
            points = [json.loads(entry) for entry in log.read_text().splitlines()]
            self.known[line] = Whole(line, found[0], points)
        return self.known[line]

    def fault(self, line: str, seconds: float = 240, limits: dict | None = None, **plan: object) -> Ended:
        """Run a command in a fresh folder with this plan of `events`."""
        self.fresh()
        environment = {VARIABLE: json.dumps({"root": str(self.place), **plan})} if plan else {}
        return self.machine.run(words(line), self.place, environment, seconds=seconds, **(limits or {}))

    def differences(self, whole: Whole) -> list[str]:
        """What is there now and not after a run without a fault, or the reverse."""
        return differences(whole.state, snapshot(self.place, self.before))

    def again(self, line: str) -> tuple[str, str]:
        """Run the same command once more; PASSED, or what is not as in the run without a fault, and what it said."""
        ended = self.machine.run(words(line), self.place, seconds=300)
        different = self.differences(self.whole(line))
        if left := leftovers(snapshot(self.place)):
            different.append(f"left over: {', '.join(left)}")
        said = readable(ended.text, 2)
        if ended.hung:
            return "hang when run again", said
        if ended.status and (different or "exists already" not in ended.text):
            return f"does not go on: status {ended.status}", said
        return (f"another end: {'; '.join(different[:3])}" if different else PASSED), said

    def tried(self, line: str, attempt: Callable[[Whole], dict]) -> Callable[[], dict]:
        """An attempt at a command that is known to succeed without a fault."""

        def run() -> dict:
            try:
                whole = self.whole(line)
            except RuntimeError as error:
                return {"command": line, "outcome": "no whole run", "said": str(error)}
            return {"command": line, **attempt(whole)}

        return run


def sample(points: list[dict], count: int, seed: str) -> list[dict]:
    """Points to try: one of every kind and moment first, then any."""
    rng = random.Random(seed)
    shuffled = rng.sample(points, len(points))
    kinds: dict[tuple, dict] = {}
    for point in shuffled:
        kinds.setdefault((point["kind"], point["when"]), point)
    first = rng.sample(list(kinds.values()), len(kinds))[:count]
    return first + [point for point in shuffled if point not in first][: count - len(first)]


def told(point: dict) -> str:
    """A point in words."""
    process = f" of process {point['process']}" if point["process"] else ""
    return f"{point['verb']}, point {point['n']}{process}: {point['when']} {point['kind']} of {point['path']}"


def where(point: dict) -> dict[str, object]:
    """A point as `events` takes it."""
    return {"at": point["n"], "process": point["process"], "verb": point["verb"]}
