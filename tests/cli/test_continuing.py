"""A `fit` with `model.export` goes on by itself, says when it is complete, and refuses what something else made."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

from lit_pursamere.cli.main import main
from lit_pursamere.store.manifest import write_manifest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory")


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Arguments of a training of one epoch below tmp_path."""
    monkeypatch.chdir(ROOT)
    return [
        "fit", "--config=configs/digits/classifier.yaml", "--data.purified=null", "--data.val_size=1300",
        "--model.classifier.width=1", "--trainer.max_epochs=1", f"--model.export={tmp_path}/net.safetensors",
        f"--trainer.logger.save_dir={tmp_path}", "--trainer.enable_progress_bar=false",
        "--trainer.limit_val_batches=0",
    ]  # fmt: skip


def error_of(capsys, *args):
    assert main(list(args)) == 1
    return capsys.readouterr().err


def same(first, second):
    """Two files of weights hold the same numbers."""
    first, second = load(first), load(second)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def last(folder):
    return folder / "classifier/logs/checkpoints/last.ckpt"


def test_a_training_is_run_then_complete_then_continued(fit, tmp_path, capsys):
    export = tmp_path / "net.safetensors"
    assert main(fit) == 0
    with safe_open(export, "pt") as file:
        configuration = json.loads(file.metadata()["configuration"])
    assert configuration["model"]["lr"] == 0.1 and configuration["trainer"]["max_epochs"] == 1
    made = (export.read_bytes(), export.stat().st_mtime_ns, last(tmp_path).stat().st_mtime_ns)
    for options in ([], ["--data.num_workers=1"]):
        capsys.readouterr()
        assert main([*fit, *options]) == 0
        assert capsys.readouterr().out.splitlines() == [f"{export} is complete"]
        assert made == (export.read_bytes(), export.stat().st_mtime_ns, last(tmp_path).stat().st_mtime_ns)
    error = error_of(capsys, *fit, "--model.lr=0.2")
    assert re.search(r"net\.safetensors .*model\.lr: there 0\.1, now 0\.2\)", error)
    export.unlink()
    error = error_of(capsys, *fit, "--trainer.max_epochs=2")
    assert re.search(r"last\.ckpt .*trainer\.max_epochs: there 1, now 2", error)
    assert main(fit) == 0
    same(made[0], export.read_bytes())


def test_a_checkpoint_that_is_named_wins(fit, tmp_path, capsys):
    """Another configuration continues from it, whatever is there."""
    assert main(fit) == 0
    capsys.readouterr()
    longer = [*fit, "--trainer.max_epochs=2"]
    assert main([*longer, f"--ckpt_path={last(tmp_path)}"]) == 0
    assert "is complete" not in capsys.readouterr().out
    assert main(longer) == 0
    assert "is complete" in capsys.readouterr().out


def test_without_an_export_nothing_is_looked_for(fit, tmp_path):
    alone = [*fit, "--model.export=null"]
    for _ in range(2):
        assert main(alone) == 0
    assert len([*last(tmp_path).parent.glob("last*.ckpt")]) == 1
    assert main([*alone, "--model.lr=0.2"]) == 0


def test_validate_looks_for_nothing(fit, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"of another")
    assert main(["validate", *fit[1:-1], "--trainer.limit_val_batches=1"]) == 0


def test_a_checkpoint_that_is_not_whole_is_one_line(fit, tmp_path, capsys):
    last(tmp_path).parent.mkdir(parents=True)
    last(tmp_path).write_bytes(b"cut")
    assert "last.ckpt (3 bytes) is not a whole Lightning checkpoint" in error_of(capsys, *fit)


def test_a_training_on_other_purified_images_is_not_complete(fit, tmp_path, capsys):
    """The set was made again with another purifier after the training."""
    (tmp_path / "purified").mkdir()
    assert main(fit) == 0
    write_manifest(tmp_path / "purified", {"purifier": "another"})
    error = error_of(capsys, *fit, f"--data.purified={tmp_path}/purified")
    assert "purified: there None, now {'purifier': 'another'}" in error


def test_weights_that_do_not_say_where_they_come_from_are_not_taken_for_complete(fit, tmp_path, capsys):
    (tmp_path / "net.safetensors").write_bytes((ROOT / "checkpoints/digits/classifier.safetensors").read_bytes())
    assert "does not say what configuration made it" in error_of(capsys, *fit)


@pytest.mark.slow
def test_several_processes_continue_together(fit, tmp_path):
    """Its end is said once; without the exported file they go on from the checkpoint of the last step."""

    def start(*options):
        command = [sys.executable, "-m", "lit_pursamere", *fit, "--trainer.max_epochs=2", *options]
        two = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
        return subprocess.run([*command, *two], check=True, capture_output=True, text=True)

    start()
    whole = (tmp_path / "net.safetensors").read_bytes()
    assert start().stdout.count("is complete") == 1
    (tmp_path / "net.safetensors").unlink()
    said = start()
    assert "last.ckpt" in said.stdout + said.stderr
    same(whole, (tmp_path / "net.safetensors").read_bytes())
