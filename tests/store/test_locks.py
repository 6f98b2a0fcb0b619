"""One run per folder; a lock ends with its process, however that ends."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import warnings

import pytest

from lit_pursamere.store import locks
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.durable import append_rows
from lit_pursamere.store.locks import FolderLock

pytest.importorskip("fcntl", reason="no locks here")

HOLD = """
import sys, time
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.durable import append_rows
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


@pytest.fixture
def impatient(monkeypatch):
    """Who finds a folder locked does not wait for seconds."""
    monkeypatch.setattr(locks, "PATIENCE", 0.2)


@pytest.mark.usefixtures("impatient")
def test_a_second_run_is_refused_and_told_who_is_there(tmp_path, other):
    process = other(0)
    with pytest.raises(OSError, match=rf"another run \(process {process.pid} on .*\) is writing to .*`output`"):
        FolderLock(tmp_path)


@pytest.mark.usefixtures("impatient")
def test_a_process_that_outlived_its_run_keeps_its_number(tmp_path, other):
    other(1)
    with pytest.raises(OSError, match="another run"):
        FolderLock(tmp_path, 1)
    lock = FolderLock(tmp_path)
    assert not lock.alone, "the folder may not be prepared anew under it"


def test_a_killed_process_leaves_nothing_locked(tmp_path, other):
    process = other(0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    FolderLock(tmp_path).release()


def test_the_processes_of_one_run_get_along(tmp_path):
    first = FolderLock(tmp_path / "new")
    assert first.alone
    first.share()
    others = [FolderLock(tmp_path / "new", rank) for rank in (1, 2)]
    assert not any(lock.alone for lock in others)
    for lock in (first, *others):
        lock.release()
    assert FolderLock(tmp_path / "new").alone


def test_nobody_comes_in_while_the_folder_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    first = FolderLock(tmp_path)
    with pytest.raises(OSError, match="another run"):
        FolderLock(tmp_path, 1)
    first.share()
    FolderLock(tmp_path, 1).release()


def test_a_refused_lock_holds_nothing(tmp_path, other):
    process = other(1)
    with pytest.raises(OSError):
        FolderLock(tmp_path, 1)
    process.kill()
    process.wait()
    assert FolderLock(tmp_path).alone


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("impatient")
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


# --- a folder that is removed, or replaced by another one, while a run has it open

GONE = "was removed or replaced while this run had it open, so nothing more is written there; start the command again"


def write(folder):
    write_whole(folder / "whole.txt", b"1")


def append(folder):
    append_rows(folder / "rows.jsonl", [{"a": 1}])


@pytest.fixture(params=[False, True], ids=["locks", "no locks"])
def lock(tmp_path, monkeypatch, request):
    """Of a folder, on a file system with and without locks."""
    if request.param:
        monkeypatch.setattr(locks.fcntl, "flock", unsupported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield FolderLock(tmp_path / "run")


@pytest.mark.parametrize("by", [write, append])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_forgotten_run_writes_nothing_into_the_folder_of_another(lock, replaced, by):
    by(lock.folder)
    shutil.rmtree(lock.folder)
    if replaced:
        ended = subprocess.run([sys.executable, "-c", HOLD.replace("60", "0"), str(lock.folder), "0"])
        assert ended.returncode == 0
    with pytest.raises(OSError, match=GONE):
        by(lock.folder)
    assert not lock.folder.exists() or not [*lock.folder.glob("[!.]*")]
    lock.release()
    lock.folder.mkdir(exist_ok=True)
    by(lock.folder)


def test_what_lies_deeper_in_a_folder_is_guarded_too(lock):
    (lock.folder / "a/b").mkdir(parents=True)
    write(lock.folder / "a/b")
    (lock.folder / lock.number).rename(lock.folder / "aside")
    (lock.folder / f"{lock.number}.soft").unlink(missing_ok=True)
    with pytest.raises(OSError, match=GONE):
        write(lock.folder / "a/b")


# --- a file system without locks


def unsupported(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")


SOFT = "knows no locks; .lock-0.soft, which names this process, stands for one"
HOLD_SOFTLY = """
import errno
from lit_pursamere.store import locks
def unsupported(file, operation):
    raise OSError(errno.ENOLCK, "No locks available")
locks.fcntl.flock = unsupported
"""


def test_without_locks_a_file_stands_for_one_and_that_is_said(tmp_path, monkeypatch):
    command = [sys.executable, "-c", HOLD_SOFTLY + HOLD, str(tmp_path), "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        monkeypatch.setattr(locks.fcntl, "flock", unsupported)
        with (
            pytest.warns(UserWarning, match=SOFT),
            pytest.raises(OSError, match=rf"another run \(process {process.pid}\) is writing.*remove .*lock-0\.soft"),
        ):
            FolderLock(tmp_path)
    finally:
        process.kill()
        _, said = process.communicate()
    assert SOFT in said
    with pytest.warns(UserWarning, match=SOFT):
        FolderLock(tmp_path).release()  # whom the file names has ended
    assert not (tmp_path / ".lock-0.soft").exists()
