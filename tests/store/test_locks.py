"""One run per folder; a lock ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import pytest

from lit_pursamere.store import locks
from lit_pursamere.store.locks import FolderLock

pytest.importorskip("fcntl", reason="no locks here")

HOLD = """
import sys, time
from lit_pursamere.store.locks import FolderLock
lock = FolderLock(sys.argv[1], int(sys.argv[2]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Start another process that holds the folder, as process `rank` of its run."""
    started = []

    def start(rank: int) -> subprocess.Popen:
        process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path), str(rank)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"held\n"
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path, other):
    process = other(0)
    with pytest.raises(OSError, match=rf"another run \(process {process.pid} on .*\) is writing to .*`output`"):
        FolderLock(tmp_path)


def test_a_process_that_outlived_its_run_is_noticed(tmp_path, other):
    other(1)
    with pytest.raises(OSError, match="another run"):
        FolderLock(tmp_path)
    FolderLock(tmp_path, 2).release()


def test_a_killed_process_leaves_nothing_locked(tmp_path, other):
    process = other(0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    FolderLock(tmp_path).release()


def test_the_processes_of_one_run_get_along(tmp_path):
    run = [FolderLock(tmp_path / "new", rank) for rank in range(3)]
    for lock in run:
        lock.release()
    FolderLock(tmp_path / "new").release()


def test_a_refused_lock_holds_nothing(tmp_path, other):
    process = other(1)
    with pytest.raises(OSError):
        FolderLock(tmp_path)
    process.kill()
    process.wait()
    FolderLock(tmp_path).release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    lock = FolderLock(tmp_path)
    alive, told = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # a loader's worker: lives until it is told to go
        os.write(alive[1], b"x")
        os.read(told[0], 1)
        os._exit(0)
    os.read(alive[0], 1)
    try:
        with pytest.raises(OSError):
            FolderLock(tmp_path)
        lock._forget()  # what the system does when this process dies
        FolderLock(tmp_path).release()
    finally:
        os.write(told[1], b"x")
        os.waitpid(child, 0)


def test_a_file_system_without_locks_is_tolerated(tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    first, second = FolderLock(tmp_path), FolderLock(tmp_path)
    first.release()
    second.release()
