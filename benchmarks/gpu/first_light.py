"""The first minutes on a GPU: does everything hold there, and how fast is it?

    PYTHONPATH=runs/gpu/pack/site python benchmarks/gpu/first_light.py --laws --throughput
    python benchmarks/gpu/first_light.py --laws --only "exact|MALADE"     # what a fault was found in, once more
    python benchmarks/gpu/first_light.py --laws --throughput --toy        # a part of the list, on the CPU

--laws goes through the laws of purifiers, views and attacks (laws.py) and through every verb of the command line
(verbs.py). Faults are listed by name in the report and on stderr; the rest goes on.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from subprocess import Popen

# Deterministic algorithms want it before CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from checks import Check, run_checks
from laws import attack_checks, purifier_checks, recomputation_check
from session import Session, TimeUp, arguments
from verbs import VERDICTS, table_on_cpu, verb_checks, verdict_check

__all__ = ["law_checks", "main"]


def main(args: Sequence[str] | None = None) -> dict:
    """Run what is asked for; returns the report."""
    parser = arguments(__doc__.splitlines()[0], minutes=7)
    parser.add_argument("--laws", action="store_true", help="does everything hold on this device?")
    parser.add_argument("--throughput", action="store_true", help="how fast is it?")
    parser.add_argument("--only", default="", metavar="REGEX", help="of the laws, only checks of such a name")
    parser.add_argument("--laws-minutes", type=float, default=2.5, help="time limit of --laws (default 2.5)")
    options = parser.parse_args(args)
    if not (options.laws or options.throughput):
        parser.error("there is nothing to do: say --laws, --throughput, or both")
    sys.path.append(str(options.pack / "site"))
    session = Session("first_light", options)
    for part in [part for part in (laws, throughput) if getattr(options, part.__name__)]:
        try:
            part(session, options)
        except (Exception, TimeUp) as error:  # what the other part has found must not be lost
            session.report["faults"][part.__name__] = f"{type(error).__name__}: {error}"
    report = session.finish()
    print(summary(report), file=sys.stderr, flush=True)
    return report


def laws(session: Session, options: argparse.Namespace) -> None:
    """Run the checks, and count them under `laws` in the report."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sizes are tiny
    try:
        with tempfile.TemporaryDirectory() as place:
            folder, wanted = Path(place), re.compile(options.only)
            background = table_on_cpu(folder / "cpu", options.toy) if wanted.search(VERDICTS) else nullcontext()
            with background as process:
                checks = law_checks(session.device, folder, process, options.toy)
                chosen = [check for check in checks if wanted.search(check.name)]
                patience = 1 if session.device.type == "cuda" else 10  # a CPU may be shared, and nothing hangs there
                run_checks(session, chosen, 60 * options.laws_minutes, patience)
    finally:
        torch.set_num_threads(threads)
    faults, left_out = (sum(check.name in session.report[what] for check in chosen) for what in ("faults", "left_out"))
    session.report["results"]["laws"] = {
        "checks": len(chosen), "faults": faults, "left out": left_out,
        "list": "a part: one setting of each purifier and attack, some verbs" if options.toy else "whole",
    }  # fmt: skip


def law_checks(device: torch.device, folder: Path, process: Popen | None, toy: bool) -> Iterator[Check]:
    """All checks, the most valuable first.

    Args:
        device: What is checked.
        folder: For what verbs write.
        process: Fills the CPU's table of verdicts.
        toy: Whether a part of them will do.
    """
    yield from purifier_checks(device, "float32", toy)
    yield from verb_checks(device, "32-true", folder, toy)
    yield recomputation_check(device)
    yield from attack_checks(device, "float32", toy)
    yield verdict_check(device, folder, process, toy)
    yield from purifier_checks(device, "tf32", toy)
    yield from verb_checks(device, "bf16-mixed", folder, toy)
    yield from purifier_checks(device, "bf16", toy)
    yield from attack_checks(device, "bf16", toy)


def throughput(session: Session, options: argparse.Namespace) -> None:
    """Measure speeds, see throughput.py."""
    from throughput import measure

    measure(session, options.toy)


def summary(report: dict) -> str:
    """How it went, in lines: what found no time, by name, and last the faults, where the end of a log shows them."""
    faults, left_out = report["faults"], report["left_out"]
    lines = [f"left out for want of time: {', '.join(left_out)}"] if left_out else []
    lines += [f"FAULT {name}: {told}" for name, told in faults.items()]
    return "\n".join([*lines, f"{len(report['results'])} results, {len(faults)} faults, {len(left_out)} left out"])


if __name__ == "__main__":
    main()
