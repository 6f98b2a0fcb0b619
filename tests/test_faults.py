"""The harness that tries faults: does it do the harm that it says, and does it see harm? Then a few of its faults."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from benchmarks.faults.bad_inputs import judge
from benchmarks.faults.interrupted import sample
from benchmarks.faults.machine import Ended
from benchmarks.faults.power import ORDERS, Disk
from benchmarks.faults.results import PASSED, Results
from benchmarks.faults.state import differences, snapshot

LINE = (
    "lit-pursamere: error: --images must be at least 1; got 0\n(LIT_PURSAMERE_TRACEBACK=1 shows where it came from)\n"
)

WRITER = """
import os, sys, json
sys.path.insert(0, sys.argv[1])
from benchmarks.faults.events import arm
arm(root=sys.argv[2], tensors=False, **json.loads(sys.argv[3]))
from pathlib import Path
folder = Path(sys.argv[2])
(folder / "deep").mkdir()
with open(folder / "deep/new", "wb") as file:
    file.write(b"abcdefgh")
    file.flush()
    os.fsync(file.fileno())
os.replace(folder / "deep/new", folder / "deep/final")
(folder / "old").unlink()
"""


@pytest.fixture
def written(tmp_path, repository_root):
    """Runs a writer of one file in a process of its own with a plan of faults; returns its status and the folder."""

    def run(**plan) -> tuple[subprocess.CompletedProcess, dict]:
        folder = tmp_path / "place"
        folder.mkdir()
        (folder / "old").write_text("old")
        command = [sys.executable, "-c", WRITER, str(repository_root), str(folder), json.dumps(plan)]
        done = subprocess.run(command, capture_output=True, text=True, process_group=0)
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        return done, found

    return run


@pytest.fixture
def points(written, tmp_path):
    log = tmp_path / "log"
    assert written(log=str(log), bytes=True)[0].returncode == 0
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_every_change_of_a_file_is_a_point(points):
    told = [(p["kind"], p["when"], p["path"]) for p in points]
    kinds = [("mkdir", "deep"), ("open", "deep/new"), ("write", "deep/new"), ("fsync", "deep/new"),
             ("rename", "deep/final"), ("unlink", "old")]  # fmt: skip
    expected = []
    for kind, path in kinds:
        moments = ("before", "half", "after") if kind == "write" else ("before", "after")
        expected += [(kind, moment, path) for moment in moments]
    assert told == expected and [p["n"] for p in points] == list(range(1, 14))


@pytest.mark.parametrize(
    ("at", "found"),
    [
        (1, {"old": b"old"}),
        (4, {"old": b"old", "deep/new": b""}),
        (6, {"old": b"old", "deep/new": b"abcd"}),
        (8, {"old": b"old", "deep/new": b"abcdefgh"}),
        (11, {"old": b"old", "deep/final": b"abcdefgh"}),
        (13, {"deep/final": b"abcdefgh"}),
    ],
)
def test_a_kill_comes_at_its_point(written, at, found):
    done, left = written(at=at, what="SIGKILL all")
    assert done.returncode == -9 and left == found


def test_a_full_disk_takes_half_of_a_write_and_no_more(written):
    done, left = written(at=6, what="ENOSPC")
    assert "No space left on device" in done.stderr and left == {"old": b"old", "deep/new": b"abcd"}


def test_a_stopped_process_goes_on(written):
    done, left = written(at=6, what="SIGSTOP all")
    assert done.returncode == 0 and left == {"deep/final": b"abcdefgh"}


def test_after_a_loss_of_power_only_what_was_forced_is_sure(points, tmp_path):
    """The name of the file is not forced by its own fsync, nor is the removal of the other."""
    left = {}
    for order in ORDERS:
        place = tmp_path / order
        place.mkdir()
        (place / "old").write_text("old")
        lost = points[:-1] if "some" in order else points
        ORDERS[order](Disk(place, [p for p in lost if p["kind"] != "fsync"]), random.Random(1))
        left[order] = {p.relative_to(place).as_posix(): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert left["names before content"] == {"deep/final": b""}
    assert left["names before content, zeros instead"] == {"deep/final": b"\0" * 8}
    assert left["content before names"] == left["neither content nor names"] == {"old": b"old"}
    forced = tmp_path / "forced"
    forced.mkdir()
    ORDERS["names before content"](Disk(forced, points), random.Random(1))
    assert (forced / "deep/final").read_bytes() == b"abcdefgh"


@pytest.mark.parametrize(
    ("ended", "outcome"),
    [
        (Ended(1, LINE, 1, 0), PASSED),
        (Ended(0, LINE, 1, 0), "accepted"),
        (Ended(-11, "", 1, 0), "signal 11"),
        (Ended(1, "Traceback (most recent call last)\n", 1, 0), "traceback"),
        (Ended(1, "", 1, 0, hung=True), "hang"),
        (Ended(1, LINE, 11, 0), "slow: 11 s of CPU"),
        (Ended(1, LINE, 1, 3 * 2**30), "memory: 3.0 GiB"),
        (Ended(1, LINE.replace("images", "pictures"), 1, 0), "unclear: does not name images"),
        (Ended(1, LINE.replace("\n", "\nand more\n", 1), 1, 0), "several lines: 2"),
        (Ended(1, LINE + LINE, 1, 0), "2 error lines"),
        (Ended(2, "usage: lit-pursamere weights VERB\n", 1, 0), PASSED),
    ],
)
def test_one_clear_line_is_told_from_others(ended, outcome):
    assert judge(ended, "images") == outcome


def test_folders_are_compared_without_times_and_with_everything_else(tmp_path):
    for name, seconds, right in (("a", 1, 3), ("b", 2, 3), ("c", 1, 2)):
        (tmp_path / name).mkdir()
        rows = [{"index": i, "seconds": seconds, "votes_last": right} for i in range(2)]
        (tmp_path / name / "records-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / name / "report.md").write_text(f"| n | s/image |\n|---|---|\n| {right} | {seconds} |\n")
    (tmp_path / "c" / "x.part").write_text("left")
    a, b, c = (snapshot(tmp_path / name) for name in "abc")
    assert differences(a, b) == []
    assert [told.split(" at ")[0] for told in differences(a, c)] == [
        "x.part is left over", "records.jsonl differs", "report.md differs"]  # fmt: skip


def test_a_sample_has_every_kind_of_point(points):
    chosen = sample(points, 13, "0")
    assert sorted(p["n"] for p in chosen) == list(range(1, 14))
    assert len({(p["kind"], p["when"]) for p in sample(points, 5, "0")}) == 5


def test_results_go_on_where_a_run_was_stopped(tmp_path, capsys):
    outcomes = {"one": PASSED, "two": "hang"}
    cases = [(name, lambda name=name: {"outcome": outcomes[name], "said": "a|b"}) for name in outcomes]
    Results(tmp_path, "kills").each(cases[:1])
    outcomes["one"] = "tried twice"
    results = Results(tmp_path, "kills")
    results.each(cases)
    assert [row["case"] for row in results.failed] == ["two"]
    assert "1 of 2 as promised; 1 hang" in results.markdown() and r"a\|b" in results.markdown()


@pytest.mark.slow
def test_a_few_faults_of_each_kind(repository_root, tmp_path):
    """Of one verb; `python -m benchmarks.faults` without --match and --count tries them on all."""
    kinds = ["inputs", "kills", "disk", "power"]
    command = [sys.executable, "-m", "benchmarks.faults", *kinds, "--match", "PURIFY", "--count", "2"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=repository_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 of 2 as promised") == len(kinds)
