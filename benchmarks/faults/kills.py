"""SIGKILL at a point of a file's life, then the same command again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.faults.interrupted import TWO, WRITERS, Bench, Whole, sample, told, where
from benchmarks.faults.results import readable

__all__ = ["attempts"]

SHARED = {"FIT": 8, "PREDICT": 8, "KEEP": 10, "COMPARE": 4, "EXPERIMENT": 6}  # of a hundred, for two processes
LONGEST = 240  # seconds after which a command hangs, also on a busy machine
ALONE = 4  # of two processes, every so-manieth kill is for one of them only


def attempts(bench: Bench, count: int, seed: int) -> Iterator[tuple[str, Callable[[], dict]]]:
    """So many kills, spread over all verbs that write.

    Args:
        bench: Runs commands.
        count: Kills, about.
        seed: Chooses where.
    """
    shares = {**WRITERS, **{verb + TWO: share for verb, share in SHARED.items()}}
    kills = {line: max(1, round(count * share / sum(shares.values()))) for line, share in shares.items()}
    for number in range(max(kills.values())):
        for line in (line for line in shares if number < kills[line]):
            yield f"{line} #{number}", bench.tried(line, killed(bench, kills[line], number, seed))


def killed(bench: Bench, kills: int, number: int, seed: int) -> Callable[[Whole], dict]:
    def attempt(whole: Whole) -> dict:
        point = sample(whole.points, kills, f"{seed} {whole.line}")[number % len(whole.points)]
        alone = TWO in whole.line and number % ALONE == ALONE - 1
        what = f"SIGKILL {'one' if alone else 'all'}"
        ended = bench.fault(whole.line, LONGEST, what=what, **where(point))
        row = {"point": f"{told(point)}{', this process alone' if alone else ''}", "first": ended.status}
        if ended.hung:
            return {**row, "outcome": "hang", "said": readable(ended.text)}
        outcome, said = bench.again(whole.line)
        return {**row, "outcome": outcome, "said": f"{row['point']}: {said}"}

    return attempt
