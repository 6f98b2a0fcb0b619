"""How far a long job is: bars on a terminal, a plain line now and then elsewhere, both with the time that is left.

    with Progress("distances", "block") as progress:
        largest_distance(images, progress=progress)         # calls progress(done, total)

A job within the job, such as the steps of an attack while images are evaluated, has a bar below or shares the line.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, TextIO

from tqdm.std import tqdm as plain_tqdm

__all__ = ["Progress", "Watch"]


class Progress:
    """A progress report; called with (done, total).

    Args:
        title: What is going on.
        unit: What is counted.
        total: How many there are, if that is known before the first call.
        hidden: Whether to report nothing, as all processes but the first should.
        steady: Whether one takes about as long as another; only then the time that is left can be told.
        every: Least seconds between two plain lines.
        stream: Where to report to (None: stderr).
        clock: Tells the time in seconds.
        note: Tells what else is to be shown, such as a loss; asked only when it is, about once a second at most.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        total: int = 0,
        hidden: bool = False,
        steady: bool = True,
        every: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[], str] = str,
    ) -> None:
        self.title, self.unit, self.hidden, self.steady, self.every, self.clock = (
            title, unit, hidden, steady, every, clock,
        )  # fmt: skip
        self.note, self.noted = note, -math.inf
        self.stream = stream or sys.stderr
        self.outer: Progress | None = None
        self.done, self.total, self.skipped = 0, total, 0
        self.started = self.spoken = clock()
        self.bar: plain_tqdm | None = None
        if not hidden and (self.stream.isatty() or in_notebook()):
            from tqdm.auto import tqdm  # of a notebook in a notebook

            # One second without a bar, so that short jobs leave the terminal alone.
            self.bar = tqdm(
                desc=title, unit=unit, total=total or None, leave=False, delay=1, file=self.stream,
                bar_format=None if steady else "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}]",
            )  # fmt: skip

    def inside(self, title: str, unit: str) -> Progress:
        """A report of a job within this one; it shares the line and its rhythm."""
        inner = Progress(title, unit, 0, self.hidden, True, self.every, self.stream, self.clock)
        inner.outer = self
        return inner

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self.bar is not None:
            self.bar.close()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Report how much is done, and of how much (None: as before)."""
        self.done, self.total = done, self.total if total is None else total
        if self.bar is not None:
            if self.clock() - self.noted >= 1:
                self.noted = self.clock()
                self.bar.set_postfix_str(self.note(), refresh=False)
            self.bar.total = self.total or None
            self.bar.update(done - self.bar.n)
        elif not self.hidden and self.clock() - self._speaker().spoken >= self.every:
            self._speaker().spoken = self.clock()
            print(self.line(), file=self.stream, flush=True)

    def advance(self, count: int, skipped: bool = False) -> None:
        """Report that so many more are done; skipped ones say nothing about the time that others take."""
        if skipped:
            self.skipped += count
            if self.bar is not None:
                self.bar.initial += count
        self(self.done + count)

    def line(self) -> str:
        """The plain line: "BPDA20: 120 of 800 steps, 02:10 left; test: 40 of 600 verdicts"."""
        own = f"{self.title}: {self.done}{f' of {self.total}' if self.total else ''} {self.unit}s"
        if (left := self._left()) is not None:
            own += f", {plain_tqdm.format_interval(left)} left"
        if note := self.note():
            own += f", {note}"
        return own if self.outer is None else f"{own}; {self.outer.line()}"

    def _left(self) -> float | None:
        """Seconds to the end if it goes on as it went so far."""
        gained = self.done - self.skipped
        if not self.steady or gained <= 0 or self.done >= self.total:
            return None
        return (self.clock() - self.started) / gained * (self.total - self.done)

    def _speaker(self) -> Progress:
        return self if self.outer is None else self.outer._speaker()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    kernel: Any = sys.modules.get("ipykernel.kernelapp")
    return kernel is not None and kernel.IPKernelApp.initialized()


class Watch:
    """Reports from a thread how far a job is that several processes share, as often as one asks.

    Args:
        progress: Reports; from now on nobody else may call it.
        ask: Tells how much is done by all processes together. What is done at the start says nothing about the time
            that is left.
        every: Seconds between two questions, at least: answers take a hundredth of the time at most, since those of a
            thousand processes come from one file server.
    """

    def __init__(self, progress: Progress, ask: Callable[[], int], every: float = 5.0) -> None:
        self.progress, self.ask, self.every = progress, ask, every
        self.ended = threading.Event()
        progress.advance(ask(), skipped=True)
        self.thread = threading.Thread(target=self._watch, name=progress.title, daemon=True)
        self.thread.start()

    def _watch(self) -> None:
        pause = self.every
        while not self.ended.wait(pause):
            asked = self.progress.clock()
            done = self.ask()
            pause = max(self.every, 100 * (self.progress.clock() - asked))
            self.progress(done)

    def close(self) -> None:
        """Ask for the last time, and take the bar off the terminal."""
        self.ended.set()
        self.thread.join()
        self.progress(self.ask())
        self.progress.close()
