"""A file is there whole or not at all, and what cannot be written is one error with its mend."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from lit_pursamere.store.atomic import remove_leftovers, write_whole


def test_pieces_come_one_after_the_other_and_nothing_else_stays(tmp_path):
    write_whole(tmp_path / "file", b"one", memoryview(b"two"))
    write_whole(tmp_path / "file", b"three")
    assert (tmp_path / "file").read_bytes() == b"three"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"cannot write .*file: No space left on device; mend that"):
        write_whole(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    for name in ("part-000001.npy", "part-000002.npy.host-7.part"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["part-000001.npy"]


def test_what_a_killed_process_left_goes_with_the_next_file_that_is_written_there(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f"old.png.{socket.gethostname()}-{process}.part" for process in (ended.pid, os.getppid())]
    names += [f"old.png.elsewhere-{ended.pid}.part", f"{socket.gethostname()}-{ended.pid}.part"]
    for name in names:
        (tmp_path / name).touch()
    write_whole(tmp_path / "new.png", b"1")
    assert sorted(os.listdir(tmp_path)) == sorted([*names[1:], "new.png"]), "of a process that runs, or may run"
