"""Told to stop (SIGTERM, SIGINT, SIGHUP), a command ends at once with status 128 + signal, and so do all its processes.

    heed(*SIGNALS)              from now on a signal raises SystemExit(128 + signal) in the main thread
    Companions([4711, 4712])    what this process is told, those are told as well
    end_without(4711)           told to stop when that parent process is no more, however it ended

Nothing has to be finished first: all that is written survives a kill. Python handles signals between steps of its own
only, so a process that waits within a library for another one would never hear of them. The thread of `Companions`
does: the system wakes it by itself. What has not ended after some seconds, it ends.

`tasks.stopping` holds what a Trainer needs. Nothing heavy is imported here.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

__all__ = [
    "SIGNALS",
    "Companions",
    "end_with_starter",
    "end_without",
    "expect",
    "heed",
    "left_to_first",
    "running",
    "told_by",
]

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
STARTER = "LIT_PURSAMERE_STARTED_BY"  # in the environment of a command that another one runs: the id of that process
TOGETHER = 5.0  # seconds in which signals count as one: a terminal, a launcher and every companion send theirs
COMPLAINT = 3.0  # seconds that the first process has to complain for all

last = -TOGETHER  # when this process was told
others: list[int] = []  # ids of the processes that are told as well


def stop(signum: int, frame: FrameType | None = None) -> None:
    """Raise SystemExit(128 + signum), once for signals that come together."""
    global last
    before, last = last, time.monotonic()
    if last - before >= TOGETHER:
        pass_on()
        raise SystemExit(128 + signum)


def expect() -> None:
    """Before others are ended for what went wrong here: what they send back is no order to stop."""
    global last
    last = time.monotonic()


def pass_on() -> None:
    """Tell the other processes."""
    for process in others:
        with suppress(ProcessLookupError):  # it ended before
            os.kill(process, signal.SIGTERM)


def forget() -> None:
    """In a process forked off, such as a loader's worker: what it is told concerns no other one."""
    signal.set_wakeup_fd(-1)
    others.clear()


def left_to_first() -> SystemExit:
    """What a process ends with where the first one complains for all: later than that one.

    A launcher that sees a process fail ends the others, which would end the first one before it has complained.
    """
    time.sleep(COMPLAINT)
    return SystemExit(1)


def told_by(status: object) -> str | None:
    """Name of the signal that an exit status tells of, "SIGTERM"; None if it tells of none."""
    return next((sent.name for sent in SIGNALS if status == 128 + sent), None)


def heed(*signals: int) -> None:
    """Let these signals raise SystemExit, unless this process was started to ignore them, as under nohup."""
    if threading.current_thread() is threading.main_thread():
        for sent in signals:
            if signal.getsignal(sent) != signal.SIG_IGN:
                signal.signal(sent, stop)
                # As Python ends, it gives its signals back to the system: one that comes then would change the status.
                atexit.register(signal.signal, sent, signal.SIG_IGN)


@contextmanager
def deferred() -> Iterator[None]:
    """What this process is told meanwhile, it heeds at the end.

    Blocking signals would not do: that holds for a thread, another one takes them, and Python's handlers still run in
    the main one.
    """
    told: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    before = {sent: signal.getsignal(sent) for sent in (SIGNALS if main else [])}
    heeded = {sent: handler for sent, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for sent in heeded:
        signal.signal(sent, lambda number, frame: told.append(number))
    try:
        yield
    finally:
        for sent, handler in heeded.items():
            signal.signal(sent, handler)
        for sent in told:
            signal.raise_signal(sent)


@contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen]:
    """Start another command; it is told to stop, and waited for, if what is done within comes to an early end.

    If this process is killed, the other command ends by `end_with_starter`.
    """
    process = None
    try:
        with deferred():  # or a signal could come before the process is known
            process = subprocess.Popen(command, env={**os.environ, STARTER: str(os.getpid())})
        yield process
    except BaseException:
        if process is not None:
            process.terminate()
            process.wait()
        raise


def end_with_starter() -> None:
    """At the beginning of a command: if `running` started it, it does not outlive whoever did."""
    if starter := os.environ.pop(STARTER, None):  # not for the processes of this one, which have another parent
        end_without(int(starter))


def end_without(parent: int) -> None:
    """Tell this process to stop (SIGTERM) as soon as it is not, or no longer, a child of this one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end without parent", daemon=True).start()


class Companions:
    """Passes SIGNALS on to other processes, until `close`, whatever the main thread is waiting for.

    Args:
        processes: Their ids, on this machine.
        grace: Seconds after which this process is ended if it has not ended by itself.
    """

    def __init__(self, processes: Sequence[int], grace: float = 15.0) -> None:
        self.grace = grace
        others[:] = processes
        self.ended = threading.Event()
        self.reader, self.writer = socket.socketpair()
        self.writer.setblocking(False)
        self.before = signal.set_wakeup_fd(self.writer.fileno(), warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=forget)
        threading.Thread(target=self._watch, name="companions", daemon=True).start()

    def close(self) -> None:
        """Pass nothing on any more."""
        signal.set_wakeup_fd(self.before)
        others.clear()
        self.ended.set()

    def _watch(self) -> None:
        while not self.ended.is_set():
            ready, _, _ = select.select([self.reader], [], [], 1.0)
            told = [sent for sent in self.reader.recv(64) if sent in SIGNALS] if ready else []
            if told:
                return self._end(told[0])

    def _end(self, signum: int) -> None:
        pass_on()
        if not self.ended.wait(self.grace):
            os._exit(128 + signum)
