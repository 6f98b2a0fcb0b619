"""Bars on a terminal, a plain line every half minute elsewhere, nothing where it is not wanted."""

from __future__ import annotations

import io
import threading
import time

import pytest

from lit_pursamere.progress import Progress, Watch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_plain_line_now_and_then(clock):
    out = io.StringIO()
    with Progress("distances", "block", stream=out, clock=clock) as progress:
        for done in range(1, 101):
            clock.now += 1
            progress(done, 100)
    assert out.getvalue().splitlines() == [
        "distances: 30 of 100 blocks, 01:10 left",
        "distances: 60 of 100 blocks, 00:40 left",
        "distances: 90 of 100 blocks, 00:10 left",
    ]


def test_a_job_of_unknown_length(clock):
    out = io.StringIO()
    with Progress("net.pt", "megabyte", stream=out, every=0, clock=clock) as progress:
        progress(5)
    assert out.getvalue() == "net.pt: 5 megabytes\n"


def test_a_job_within_shares_the_line_and_its_rhythm(clock):
    out = io.StringIO()
    progress = Progress("test", "verdict", 200, steady=False, stream=out, clock=clock)
    for k in range(2):
        with progress.inside(f"PGD{k}", "step") as steps:
            for done in range(1, 41):
                clock.now += 1
                steps(done, 40)
        progress.advance(50)
    assert out.getvalue().splitlines() == [
        "PGD0: 30 of 40 steps, 00:10 left; test: 0 of 200 verdicts",
        "PGD1: 20 of 40 steps, 00:20 left; test: 50 of 200 verdicts",
    ]


def test_what_was_done_before_says_nothing_about_speed(clock):
    progress = Progress("test", "verdict", 200, stream=io.StringIO(), clock=clock)
    progress.advance(100, skipped=True)
    assert progress.line() == "test: 100 of 200 verdicts"
    clock.now += 10
    progress.advance(20)
    assert progress.line() == "test: 120 of 200 verdicts, 00:40 left"
    progress.advance(80)
    assert progress.line() == "test: 200 of 200 verdicts"


def test_a_terminal_gets_bars(clock, monkeypatch):
    out = Terminal()
    progress = Progress("test", "verdict", 10, stream=out, clock=clock)
    inner = progress.inside("PGD", "step")
    for bar in (progress.bar, inner.bar):
        bar.delay = bar.mininterval = 0
    inner(3, 4)
    progress.advance(5)
    assert "PGD:  75%" in out.getvalue() and "test:  50%" in out.getvalue()
    inner.close()
    progress.close()


@pytest.mark.parametrize("out", [io.StringIO(), Terminal()])
def test_hidden_is_silent(out, clock):
    with Progress("test", "verdict", hidden=True, stream=out, clock=clock) as progress:
        clock.now += 100
        progress(1, 2)
        with progress.inside("PGD", "step") as steps:
            clock.now += 100
            steps(1, 2)
    assert out.getvalue() == ""


def test_a_watch_tells_what_all_processes_have_done(clock):
    out, done = io.StringIO(), iter([40, 60, 100])
    asked = threading.Event()

    def ask() -> int:
        clock.now += 30
        count = next(done)
        if count == 60:
            asked.set()
        return count

    watch = Watch(Progress("purify", "image", 100, stream=out, clock=clock), ask, every=0.01)
    assert asked.wait(5)
    time.sleep(0.1)  # in which it would ask again, if an answer that took 30 s were not followed by 3,000 s of rest
    watch.close()
    lines = out.getvalue().splitlines()
    assert lines[0] == "purify: 40 of 100 images", "what was there before says nothing about the time"
    assert lines[1] == "purify: 60 of 100 images, 02:00 left" and lines[2] == "purify: 100 of 100 images"


def test_a_kernel_that_was_only_imported_is_no_notebook(clock):
    pytest.importorskip("ipykernel.kernelapp")
    out = io.StringIO()
    with Progress("purify", "image", 100, stream=out, clock=clock) as progress:
        clock.now += 60
        progress(50)
    assert out.getvalue() == "purify: 50 of 100 images, 01:00 left\n"
