"""A `fit` that is told to stop, or finds the disk full, exports nothing, says how to go on, and does it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lit_pursamere.cli.main import main

ROOT = Path(__file__).resolve().parents[2]
GO_ON = "what is written stays, and the same command continues"
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:Total length of")

# In step 5, between checkpoints, this process sends itself the signal that the environment names, once; or is slow.
TOLD = """
import os, time
from lit_pursamere.tasks import LitClassifier

class Told(LitClassifier):
    def training_step(self, batch, batch_idx):
        if self.global_step == 5 and "SIGNAL" in os.environ:
            os.kill(os.getpid(), int(os.environ.pop("SIGNAL")))
        time.sleep(float(os.environ.get("SLOW", 0)))
        return super().training_step(batch, batch_idx)
"""


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Makes the arguments of a training of three epochs, of three steps each, below a folder."""
    (tmp_path / "told.py").write_text(TOLD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")

    def arguments(name, epochs=3):
        return [
            "fit", f"--config={ROOT}/configs/digits/classifier.yaml", "--model.class_path=told.Told",
            "--data.purified=null", "--data.val_size=0", "--data.train_size=96", "--data.batch_size=32",
            "--model.classifier.width=1", f"--trainer.max_epochs={epochs}", "--trainer.accelerator=cpu",
            f"--model.export={tmp_path / name}/net.safetensors", f"--trainer.logger.save_dir={tmp_path / name}",
            "--trainer.enable_progress_bar=false",
        ]  # fmt: skip

    return arguments


def last(folder):
    return folder / "classifier/logs/checkpoints/last.ckpt"


@pytest.mark.usefixtures("heeding")
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.slow)])
def test_a_signal_ends_a_training_without_an_export_and_it_continues(name, status, fit, tmp_path, monkeypatch, capsys):
    assert main(fit("whole")) == 0
    capsys.readouterr()
    monkeypatch.setenv("SIGNAL", str(int(getattr(signal, name))))
    assert main(fit("told")) == status
    assert capsys.readouterr().err.splitlines()[-1] == f"lit-pursamere: stopped by {name}; {GO_ON}"
    assert last(tmp_path / "told").exists() and not (tmp_path / "told/net.safetensors").exists()
    assert not [*tmp_path.rglob("*.part")]
    assert main(fit("told")) == 0
    assert (tmp_path / "told/net.safetensors").read_bytes() == (tmp_path / "whole/net.safetensors").read_bytes()


def until(process, file):
    while process.poll() is None and not file.exists():
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_an_experiment_that_is_told_to_stop_in_a_training_stops_there(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW", "0.1")
    words = " ".join(fit("run", epochs=1000))
    later = f"figure proposition-1 {tmp_path}/later.png"
    (tmp_path / "two.yaml").write_text(yaml.safe_dump({"stages": [words, later]}))
    command = [sys.executable, "-m", "lit_pursamere", "experiment", str(tmp_path / "two.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(process, last(tmp_path / "run"))
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert GO_ON in said.splitlines()[-1] and "Traceback" not in said
    assert not (tmp_path / "later.png").exists() and not (tmp_path / "run/net.safetensors").exists()


@pytest.mark.slow
def test_a_signal_to_the_second_of_two_processes_ends_the_training(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW", "0.1")
    two = ["--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "lit_pursamere", *fit("run", epochs=1000), *two]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(process, last(tmp_path / "run"))
    children = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
    os.kill(int(children.stdout), signal.SIGTERM)
    said, _ = process.communicate(timeout=30)  # the pipe is open until both have ended
    assert process.returncode == 143, said
    assert GO_ON in said.splitlines()[-1] and "Traceback" not in said
    assert not (tmp_path / "run/net.safetensors").exists() and not [*tmp_path.rglob("*.part")]


@pytest.mark.slow
def test_on_a_full_disk_a_training_ends_in_one_line_and_continues(fit, tmp_path):
    """A limit of the size of files stands for the disk."""
    every = {"filename": "last", "every_n_train_steps": 1, "enable_version_counter": False}
    callbacks = json.dumps([{"class_path": "ModelCheckpoint", "init_args": every}])
    options = [*fit("run"), "--trainer.logger=false", f"--trainer.default_root_dir={tmp_path}/run",
               f"--trainer.callbacks={callbacks}"]  # fmt: skip
    command = ["bash", "-c", 'ulimit -f 100; exec "$@"', "-", sys.executable, "-m", "lit_pursamere"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    line, _ = done.stderr.splitlines()[-2:]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert line.startswith(f"lit-pursamere: error: cannot write {tmp_path}/run/checkpoints/last.ckpt: File too large; ")
    assert line.endswith("again") or "continues" in line
    assert not [*tmp_path.rglob("*.part")] and not (tmp_path / "run/net.safetensors").exists()
    assert main(options) == 0
    assert (tmp_path / "run/net.safetensors").exists()
