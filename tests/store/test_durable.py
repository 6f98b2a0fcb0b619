"""What cannot be written is one clear error, and the next attempt goes on where the disk was full."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lit_pursamere.store import Records, read_rows
from lit_pursamere.store.durable import append

resource = pytest.importorskip("resource", reason="needs limits of file sizes")

SCRIPT = """
import resource, sys
from lit_pursamere.store import Records
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
records = Records(sys.argv[1], {"attacks": {}})
for index in range(100):
    if records.get("system", "clean", index) is None:
        records.append([{"system": "system", "attack": "clean", "index": index, "evaluations": 1}])
"""


def test_bytes_are_appended(tmp_path):
    append(tmp_path / "file", b"one\n")
    append(tmp_path / "file", b"two\n")
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\n"


def test_a_folder_that_is_not_there_is_an_error_with_the_mend(tmp_path):
    with pytest.raises(OSError, match=r"cannot write .*none/file: No such file.*run the same command again"):
        append(tmp_path / "none/file", b"")


def test_a_full_disk_loses_nothing_and_the_same_command_continues(tmp_path):
    """A limit of the file size stands in for the disk: a write stops halfway with an error, as on a full disk."""

    def run(limit: int) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), str(limit)], capture_output=True, text=True)

    full = run(1000)
    assert full.returncode == 1
    assert full.stderr.strip().splitlines()[-1].startswith("OSError: cannot write") and "continues" in full.stderr
    kept = read_rows(tmp_path)
    assert 0 < len(kept) < 100 and (tmp_path / "records-0.jsonl").stat().st_size == 1000, "a line is cut short"
    assert run(2000).returncode == 1
    assert len(read_rows(tmp_path)) > len(kept)
    assert run(100_000).returncode == 0
    assert [row["index"] for row in read_rows(tmp_path)] == list(range(100))
    Records(tmp_path, {"attacks": {}})
