"""python -m benchmarks.faults KIND ... --out FOLDER: try faults, write FOLDER/KIND.md; a stopped run goes on."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.faults import bad_inputs, disk, kills, power, signals
from benchmarks.faults.inputs import table
from benchmarks.faults.interrupted import Bench
from benchmarks.faults.machine import Machine, Real, forked
from benchmarks.faults.results import Results
from benchmarks.faults.world import build

Case = tuple[str, Callable[[], dict]]
KINDS = ("inputs", "kills", "signals", "disk", "power")
COUNTS = {"kills": 200, "signals": 1, "disk": 1, "power": 1}  # of a full run: kills in all, of the others of each sort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder of the results")
    parser.add_argument("--count", type=int, help="only so many, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="real commands instead of forks: ten seconds each")
    parser.add_argument("--match", default="", help="only cases whose name holds this")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, forked() as server:
        world = build(server, Path(folder) / "world")
        machine: Machine = Real() if args.real else server
        failed = 0
        for kind in args.kinds:
            results = Results(args.out, f"{kind}{'-real' if args.real else ''}")
            cases = list(inputs(machine, world) if kind == "inputs" else interrupted(kind, machine, world, args.seed))
            cases = [case for case in cases if args.match in case[0]]
            if args.count is not None:
                cases = random.Random(args.seed).sample(cases, min(args.count, len(cases)))
            results.each(cases)
            (args.out / f"{results.kind}.md").write_text(results.markdown())
            print(results.markdown().partition("\n| case")[0])
            failed += len(results.failed)
    sys.exit(failed > 0)


def inputs(machine: Machine, world: Path) -> Iterator[Case]:
    """Bad inputs."""
    idle = machine.run(["report", "nowhere"], world)
    return bad_inputs.attempts(machine, world, table(), idle.cpu, idle.memory)


def interrupted(kind: str, machine: Machine, world: Path, seed: int) -> Iterator[Case]:
    """Commands with a fault in them."""
    attempts = {"kills": kills.attempts, "signals": signals.attempts, "disk": disk.attempts, "power": power.attempts}
    return attempts[kind](Bench(machine, world, bytes=kind == "power"), COUNTS[kind], seed)


if __name__ == "__main__":
    main()
