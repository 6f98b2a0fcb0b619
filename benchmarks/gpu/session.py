"""What the scripts of this folder share: a time limit of their own, and results that are on disk after every step.

    session = Session("first_light", arguments)
    session.step("PurSAMERE", work, limit=20)     # runs work(); a fault is noted, and the rest goes on
    session.finish()                              # prints everything as one line of JSON

A machine with a GPU is had for minutes: a step that fails, hangs or comes too late must not cost the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # nothing is installed where a GPU is had for minutes

from lit_pursamere.store.atomic import replacing  # noqa: E402

__all__ = ["ROOT", "Session", "TimeUp", "arguments", "describe", "parsed", "synchronise"]


class TimeUp(BaseException):
    """The time of a step, or of the whole session, is over; no handler of ordinary exceptions swallows it."""


def arguments(description: str, minutes: float) -> argparse.ArgumentParser:
    """A parser with what every script takes: --toy, --minutes, --out, --pack, --device.

    Args:
        description: What the script does, in a line.
        minutes: Its usual time limit.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--toy", action="store_true", help="the same code at sizes of seconds, on the CPU")
    parser.add_argument("--minutes", type=float, default=minutes, help=f"time limit (default {minutes:g})")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT", "runs/gpu/out")), help="folder for what it writes"
    )
    parser.add_argument("--pack", type=Path, default=Path("runs/gpu/pack"), help="folder that pack.py made")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="where to run (default: cuda; with --toy cpu)")
    return parser


def parsed(
    parser: argparse.ArgumentParser, args: Sequence[str] | None, toy: Mapping[str, object]
) -> argparse.Namespace:
    """What was asked for; with --toy the sizes of a toy where none were told."""
    if parser.parse_known_args(args)[0].toy:
        parser.set_defaults(**toy)
    return parser.parse_args(args)


class Session:
    """A script's run: steps under a time limit, and one report of them.

    Args:
        name: The report is OUT/NAME.json.
        options: Parsed `arguments`.
        clock: Tells the time in seconds.

    `report` holds `results` by step, `faults` (what broke, with the line where), and `left_out` for want of time.
    """

    def __init__(self, name: str, options: argparse.Namespace, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.end = clock, clock() + 60 * options.minutes
        self.device = torch.device(options.device or ("cpu" if options.toy else "cuda"))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise SystemExit(f"{name}: no GPU here; --toy runs the same code on the CPU")
        self.out = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.path = self.out / f"{name}.json"
        told = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
        self.report: dict = {
            "script": name, "arguments": told, "machine": describe(self.device), "seconds": 0.0,
            "results": {}, "faults": {}, "left_out": [],
        }  # fmt: skip
        self.started, self.stepping = clock(), False
        signal.signal(signal.SIGTERM, self._ended)

    def left(self) -> float:
        """Seconds until the time limit."""
        return self.end - self.clock()

    def step(self, name: str, work: Callable[[], object], limit: float | None = None, needs: float = 1.0) -> object:
        """Run work(), keep what it returns, and save the report.

        Args:
            name: Name in the report.
            work: Returns something that JSON can hold.
            limit: Seconds after which the step is broken off (None: only the session's end breaks it off).
            needs: Seconds that it wants at least; with less left it is left out.

        Returns:
            What work() returned; None if it broke or was left out.
        """
        if self.left() < needs:
            self.report["left_out"].append(name)
            self.save()
            return None
        started, result = self.clock(), None
        try:
            with alarm(min(self.left(), limit or self.left())):
                self.stepping = True
                result = work()
                synchronise(self.device)
            self.report["results"][name] = result
        except TimeUp:
            self.report["faults"][name] = f"broken off after {self.clock() - started:.1f} s"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            message = " ".join(str(error).split())[:500]
            place = f"{Path(where.filename).name}:{where.lineno}"
            self.report["faults"][name] = f"{type(error).__name__}: {message} ({place})"
        finally:
            self.stepping = False
        told = self.report["faults"].get(name, "ok")
        print(f"{name}: {told} [{self.clock() - started:.1f} s, {self.left():.0f} s left]", file=sys.stderr, flush=True)
        self.save()
        return result

    def save(self) -> None:
        """Write the report as it stands."""
        self.report["seconds"] = round(self.clock() - self.started, 1)
        with replacing(self.path) as temporary:
            temporary.write_text(json.dumps(self.report, indent=1, default=str) + "\n", encoding="utf-8")

    def finish(self) -> dict:
        """Save the report, print it as one line, and return it."""
        self.save()
        print(json.dumps(self.report, default=str), flush=True)
        return self.report

    def _ended(self, number: int, frame: FrameType | None) -> None:
        self.end = self.clock()  # nothing further is begun
        if self.stepping:
            raise TimeUp


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeUp within the block when the time is over."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def synchronise(device: torch.device) -> None:
    """Wait for the device, so that faults and times belong to the step that made them."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def describe(device: torch.device) -> dict[str, object]:
    """The machine and the versions that numbers depend on."""
    import pytorch_lightning as pl

    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "memory_gib": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if cuda else None,
        "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "lightning": pl.__version__,
    }
