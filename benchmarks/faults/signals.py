"""SIGTERM, SIGINT, SIGHUP, and STOP with CONT, to one process or to all, at a point of a file's life."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.faults.interrupted import TWO, Bench, Whole, sample, told, where
from benchmarks.faults.results import PASSED, readable

__all__ = ["attempts"]

VERBS = ("FIT", "PREDICT", "KEEP", "COMPARE", "AUDIT", "PURIFY", "EXPERIMENT")
SHARED = ("FIT", "PREDICT", "KEEP")
STATUS = {"SIGTERM": (143,), "SIGINT": (130,), "SIGHUP": (129, -1), "SIGSTOP": (0,)}
LONGEST = 120  # seconds in which all processes must have ended, also on a busy machine


def attempts(bench: Bench, count: int, seed: int) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Signals to every verb that takes long; so many of each, at other points."""
    for number in range(count):
        for signal in STATUS:
            for line in (*VERBS, *(verb + TWO for verb in SHARED)):
                for whom in ("one", "all") if TWO in line else ("all",):
                    name = f"{signal} to {whom}: {line} #{number}"
                    yield name, bench.tried(line, signalled(bench, signal, whom, f"{seed} {name}"))


def signalled(bench: Bench, signal: str, whom: str, seed: str) -> Callable[[Whole], dict]:
    def attempt(whole: Whole) -> dict:
        [point] = sample([point for point in whole.points if point["when"] == "after"], 1, seed)
        ended = bench.fault(whole.line, LONGEST, what=f"{signal} {whom}", **where(point))
        row = {"point": told(point), "first": ended.status}
        if ended.hung:
            return {**row, "outcome": "hang", "said": f"{told(point)}: {readable(ended.text)}"}
        outcome, said = bench.again(whole.line)
        if outcome == PASSED:
            outcome = judge(ended.status, ended.text, signal)
            said = readable(ended.text)
        return {**row, "outcome": outcome, "said": f"{told(point)}: {said}"}

    return attempt


def judge(status: int, text: str, signal: str) -> str:
    if status == 0:
        return PASSED if signal == "SIGSTOP" or "complete" in text else "status 0 of a run that was told to stop"
    if status not in STATUS[signal]:
        return f"status {status} after {signal}"
    if "Traceback" in text:
        return "traceback"
    if signal in ("SIGTERM", "SIGINT") and not text.strip().splitlines()[-1:]:
        return "no word on how to go on"
    return PASSED
