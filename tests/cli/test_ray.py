"""Shards on a Ray cluster of this machine: workers that are killed cost nothing but time."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.store import read_rows

TEST = [
    "test", "--config=digits/robustness", "--model.purifier.sigmas.stride=12", "--model.attacks.gPGD20.steps=4",
    "--model.attacks.BPDA20-det.steps=3", "--data.test_size=24", "--data.eval_batch_size=2", "--model.pool=2",
    "--model.pictures=0", "--model.preflight=false", "--trainer.accelerator=cpu", "--trainer.logger=false",
    "--trainer.enable_progress_bar=false",
]  # fmt: skip


def test_without_ray_it_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["ray", *TEST]) == 1
    assert "ray needs Ray, the extra `ray`" in capsys.readouterr().err
    assert main(["ray", *TEST, "--cpus", "0"]) == 1
    assert "--cpus must be above 0" in capsys.readouterr().err


class Killer(threading.Thread):
    """Kills whatever has just begun to write rows of a shard, a few times."""

    def __init__(self, folder, times):
        super().__init__(daemon=True)
        self.folder, self.times, self.killed = folder, times, []

    def run(self):
        while len(self.killed) < self.times:
            time.sleep(0.05)
            for file in sorted(self.folder.glob("records-*.jsonl")):
                holder = re.match(r"process (\d+) ", (self.folder / f".lock-{file.stem[8:]}").read_text())
                if holder and int(holder[1]) not in self.killed and file.stat().st_size:
                    os.kill(int(holder[1]), signal.SIGKILL)
                    self.killed.append(int(holder[1]))
                    break


@pytest.mark.slow
def test_killed_workers_leave_the_rows_of_one_command(tmp_path, capsys, monkeypatch, repository_root):
    cluster = pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(repository_root))
    cluster.init(num_cpus=2, include_dashboard=False)
    killer = Killer(tmp_path / "many", 3)
    try:
        killer.start()
        assert main(["ray", *TEST, f"--model.output={tmp_path}/many", "--shards", "4"]) == 0
        assert "4 shards are done" in capsys.readouterr().out
        assert main(["ray", *TEST, f"--model.output={tmp_path}/many", "--shards", "2", "--data.test_size", "25"]) == 1
        assert "2 of 2 shards failed (0/2, 1/2)" in capsys.readouterr().err.replace("(1/2, 0/2)", "(0/2, 1/2)")
    finally:
        cluster.shutdown()
    assert len(killer.killed) == 3
    assert main([*TEST, f"--model.output={tmp_path}/one"]) == 0
    one, many = ([{**row, "seconds": 0} for row in read_rows(tmp_path / name)] for name in ("one", "many"))
    assert one == many and len(one) == 2 * 3 * 24
    assert (tmp_path / "many/report.md").is_file()
