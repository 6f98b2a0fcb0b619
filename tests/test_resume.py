"""A run that is killed without warning loses nothing that is on disk, and ends up as if nothing had happened."""

from __future__ import annotations

import importlib.util
import random

import pytest

from lit_pursamere.cli import main
from lit_pursamere.results import read_rows


@pytest.fixture(scope="module")
def kill_resume(repository_root):
    """The script that kills and compares."""
    spec = importlib.util.spec_from_file_location("kill_resume", repository_root / "benchmarks/kill_resume.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_killed_three_times_the_records_are_the_same(kill_resume, tmp_path):
    test = ["test", *kill_resume.SMALL, "--data.test_size=16", "--model.pool=8"]
    kill_resume.finish(kill_resume.start(test, tmp_path / "whole", 1))
    times = kill_resume.killed(test, tmp_path / "again", 1, 3, 0.8, random.Random(0))
    assert len(read_rows(tmp_path / "again")) == 2 * 3 * 16
    assert kill_resume.differences(tmp_path / "whole", tmp_path / "again") == []
    assert times >= 1, "the run must have been killed at all"


def test_a_purified_set_that_was_killed_is_the_same(kill_resume, repository_root, tmp_path, monkeypatch):
    monkeypatch.chdir(repository_root)
    run = ["predict", *kill_resume.SMALL_SET, "--data.val_size=121", "--model.purifier.sigmas.stride=12"]
    quiet = ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"]
    assert main([*run, f"--model.output={tmp_path}/whole", *quiet]) == 0
    times = kill_resume.killed(run, tmp_path / "again", 1, 1, 0.1, random.Random(0))
    assert len(kill_resume.pieces(tmp_path / "again")) == 2 + 31
    assert kill_resume.differences(tmp_path / "whole", tmp_path / "again") == []
    assert times == 1, "the run must have been killed at all"
