"""A run that is killed without warning loses nothing that is on disk, and ends up as if nothing had happened."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from lit_pursamere.cli.main import main
from lit_pursamere.store import read_rows
from lit_pursamere.store.images import read_images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kill_resume(repository_root):
    """The script that kills and compares."""
    spec = importlib.util.spec_from_file_location("kill_resume", repository_root / "benchmarks/kill_resume.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("warm")
def test_killed_three_times_the_records_are_the_same(kill_resume, tmp_path):
    test = ["test", *kill_resume.SMALL, "--data.test_size=16", "--model.pool=8"]
    kill_resume.finish(kill_resume.start(test, tmp_path / "whole", 1))
    times = kill_resume.killed(test, tmp_path / "again", 1, 3, 0.8, random.Random(0))
    assert len(read_rows(tmp_path / "again")) == 2 * 3 * 16
    assert kill_resume.differences(tmp_path / "whole", tmp_path / "again") == []
    assert times >= 1, "the run must have been killed at all"


@pytest.mark.usefixtures("warm")
def test_a_purified_set_that_was_killed_is_the_same(kill_resume, repository_root, tmp_path, monkeypatch):
    monkeypatch.chdir(repository_root)
    run = ["predict", *kill_resume.SMALL_SET, "--data.val_size=121", "--model.purifier.sigmas.stride=12"]
    quiet = ["--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}"]
    assert main([*run, f"--model.output={tmp_path}/whole", *quiet]) == 0
    times = kill_resume.killed(run, tmp_path / "again", 1, 1, 0.1, random.Random(0))
    assert len(kill_resume.pieces(tmp_path / "again")) == 2 + 31
    assert kill_resume.differences(tmp_path / "whole", tmp_path / "again") == []
    assert times == 1, "the run must have been killed at all"


def test_three_shards_some_killed_some_twice_are_one_run(kill_resume, tmp_path):
    test = ["test", *kill_resume.SMALL, "--data.test_size=64", "--model.preflight=false", "--model.save_images=true"]
    kill_resume.finish(kill_resume.start(test, tmp_path / "whole", 1))
    times = kill_resume.sharded(test, tmp_path / "again", 3, 2, 2, 1.0, random.Random(1))
    one, many = (read_rows(tmp_path / name) for name in ("whole", "again"))
    assert len(many) == 2 * 3 * 64 and kill_resume.differences(tmp_path / "whole", tmp_path / "again") == []
    places = (read_images(tmp_path / "whole", one), read_images(tmp_path / "again", many))
    assert all(torch.equal(*pair) for pair in zip(*places, strict=True))
    lines = [file.read_text().count("\n") for file in (tmp_path / "again").glob("records-*.jsonl")]
    assert len(lines) == 3 and sum(lines) == len(many), "nothing was done twice"
    assert times >= 1, "a shard must have been killed at all"


# Notes the loss of every step; batches are pairs of a digit and its negative.
CURVE = """
import os, time
import torch
from lit_pursamere.data import Digits
from lit_pursamere.data.resident import ResidentLoader
from lit_pursamere.tasks import LitClassifier

class Curve(LitClassifier):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        with open(os.environ["CURVE"], "a") as file:
            file.write(f"{self.global_step} {loss.item().hex()}\\n")
        time.sleep(0.03)
        return loss

class Pairs(Digits):
    def train_dataloader(self):
        source, chosen = self.sources["train"], torch.tensor(self.indices("train"))
        images = source.images[chosen]
        return ResidentLoader([images, 1 - images], source.labels[chosen], chosen, self.batch_size, crop=1, flip=True)
"""


def losses(file):
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return {int(step): loss for step, loss in lines}


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_training_that_was_killed_ends_with_the_weights_of_one_that_was_not(repository_root, tmp_path, monkeypatch):
    """Ten steps an epoch, average, dropout, milestones, pairs; killed (SIGKILL) in the middle of the second epoch."""
    (tmp_path / "curve.py").write_text(CURVE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(repository_root)

    def arguments(name):
        every = {"dirpath": str(tmp_path / name), "filename": "last", "every_n_train_steps": 1,
                 "save_on_train_epoch_end": False, "enable_version_counter": False}  # fmt: skip
        callbacks = json.dumps([{"class_path": "ModelCheckpoint", "init_args": every}])
        return [
            "fit", "--config=configs/digits/classifier.yaml", "--model.class_path=curve.Curve",
            "--data.class_path=curve.Pairs", "--data.purified=null",
            "--data.val_size=1235", "--data.batch_size=16", "--data.eval_batch_size=16",
            "--model.classifier.width=1", "--model.classifier.dropout=0.3", "--model.ema_decay=0.9",
            "--model.milestones=[1,2]", "--trainer.max_epochs=3", "--trainer.limit_val_batches=1",
            "--trainer.logger=false", "--trainer.enable_progress_bar=false", f"--trainer.callbacks={callbacks}",
            f"--trainer.default_root_dir={tmp_path}", f"--model.export={tmp_path / name}.safetensors",
        ]  # fmt: skip

    monkeypatch.setenv("CURVE", str(tmp_path / "whole.txt"))
    assert main(arguments("whole")) == 0
    whole = losses(tmp_path / "whole.txt")
    assert list(whole) == list(range(30))

    command = [sys.executable, "-m", "lit_pursamere", *arguments("killed")]
    begun = tmp_path / "begun.txt"
    environment = {**os.environ, "CURVE": str(begun), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while len(losses(begun)) < 14 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, complaint = process.communicate()
    assert process.returncode == -signal.SIGKILL, complaint.decode()

    monkeypatch.setenv("CURVE", str(tmp_path / "resumed.txt"))
    assert main(arguments("killed")) == 0
    resumed = losses(tmp_path / "resumed.txt")
    assert 10 < min(resumed) < 19, "it was killed in the middle of an epoch"
    assert losses(begun) | resumed == whole and list(resumed) == list(range(min(resumed), 30))
    for name, value in load_file(tmp_path / "whole.safetensors").items():
        assert torch.equal(value, load_file(tmp_path / "killed.safetensors")[name]), name
