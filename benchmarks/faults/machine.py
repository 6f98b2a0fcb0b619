"""Commands, forked or real, with a time limit, and what became of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults.server import ADDRESS, ask
from lit_pursamere.stopping import SIGNALS

__all__ = ["ROOT", "Ended", "Forked", "Machine", "Real", "forked"]

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit status (negative: a signal), what it printed, seconds of CPU, bytes of memory."""

    status: int
    text: str
    cpu: float
    memory: int
    hung: bool = False
    left: bool = False  # whether a process of its group had to be removed afterwards


class Machine:
    """Starts commands; a subclass says how."""

    def start(self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], out: Path, **limits: int) -> int:
        """Start a command in a process group of its own; returns its process number, which is the group's."""
        raise NotImplementedError

    def wait(self, pid: int, seconds: float) -> dict | None:
        """How it ended; None if it has not within so many seconds."""
        raise NotImplementedError

    def run(
        self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None, seconds: float = 120,
        **limits: int,
    ) -> Ended:  # fmt: skip
        """Run a command to its end, or until its time is over."""
        with tempfile.NamedTemporaryFile(suffix=".txt") as out:
            pid = self.start(argv, cwd, environment or {}, Path(out.name), **limits)
            return self.finish(pid, Path(out.name), seconds)

    def finish(self, pid: int, out: Path, seconds: float) -> Ended:
        """Wait for a started command, remove what is left of its group, and tell how it ended."""
        found = self.wait(pid, seconds)
        hung = found is None
        left = gone(pid)
        if hung:
            found = self.wait(pid, 60) or {"status": -9, "cpu": 0.0, "memory": 0}
        return Ended(text=out.read_text(errors="replace"), hung=hung, left=left, **found)

    @staticmethod
    def surroundings(more: Mapping[str, str]) -> dict[str, str]:
        own = {key: value for key, value in os.environ.items() if key not in ("LIT_PURSAMERE_TRACEBACK", "FAULTS")}
        own |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
        return {**own, **more}


class Forked(Machine):
    """Forks of a server that has imported everything, see `server`."""

    def __init__(self, address: str) -> None:
        self.address = address

    def start(self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], out: Path, **limits: int) -> int:
        request = {"argv": list(argv), "cwd": str(cwd), "environment": self.surroundings(environment)}
        return ask({**request, "out": str(out), "err": str(out), **limits}, self.address)

    def wait(self, pid: int, seconds: float) -> dict | None:
        from multiprocessing.connection import Client

        with Client(self.address, "AF_UNIX") as connection:
            connection.send({"wait": pid})
            return connection.recv() if connection.poll(seconds) else None


class Real(Machine):
    """`python -m lit_pursamere`, as a user starts it; imports count in its CPU time."""

    def __init__(self) -> None:
        self.processes: dict[int, subprocess.Popen] = {}

    def start(self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], out: Path, **limits: int) -> int:
        own = self.surroundings(environment)
        own["PYTHONPATH"] = os.pathsep.join([own["PYTHONPATH"], str(Path(__file__).parent / "site")])
        with open(out, "ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "lit_pursamere", *argv], cwd=cwd, env=own, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, process_group=0, preexec_fn=heed_all,
            )  # fmt: skip
        self.processes[process.pid] = process
        return process.pid

    def wait(self, pid: int, seconds: float) -> dict | None:
        end, process = time.monotonic() + seconds, self.processes[pid]
        while process.returncode is None:
            found, status, used = os.wait4(pid, os.WNOHANG)
            if found:
                process.returncode = os.waitstatus_to_exitcode(status)
                return {"status": process.returncode, "cpu": used.ru_utime + used.ru_stime,
                        "memory": used.ru_maxrss * 1024}  # fmt: skip
            if time.monotonic() > end:
                return None
            time.sleep(0.05)
        return None


def heed_all() -> None:
    """Ignore no signal, whatever started the harness may ignore."""
    for sent in SIGNALS:
        signal.signal(sent, signal.SIG_DFL)


def gone(group: int) -> bool:
    """Remove what is left of a process group; returns whether there was anything."""
    try:
        os.killpg(group, signal.SIGCONT)
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def forked() -> Iterator[Forked]:
    """A server for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/server"
        environment = Machine.surroundings({ADDRESS: address})
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults.server", address], cwd=ROOT, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            if process.stdout.readline().strip() != "ready":
                raise RuntimeError("the server of forked commands did not start")
            yield Forked(address)
        finally:
            process.stdin.close()
            process.wait()
