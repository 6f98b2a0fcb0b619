"""A file is there whole or not at all, and what cannot be written is one error with its mend."""

from __future__ import annotations

import os

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
