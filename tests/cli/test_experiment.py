"""An experiment runs its stages in order, each in a process of its own; started again, it goes on where it stopped."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lit_pursamere.cli import experiment
from lit_pursamere.cli.experiment import read_stages
from lit_pursamere.cli.main import main
from lit_pursamere.cli.spelling import check_words

ROOT = Path(__file__).resolve().parents[2]
FILES = [file for file in sorted((ROOT / "configs").rglob("*.yaml")) if "stages" in yaml.safe_load(file.read_text())]


def written(folder, *stages):
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump({"stages": list(stages)}))
    return file


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_words_of_the_stages_in_configs_are_known(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    for verb, *words in read_stages(file):
        check_words(verb, words)


SAMPLE = [file if file.stem == "experiment_short" else pytest.param(file, marks=pytest.mark.slow) for file in FILES]


@pytest.mark.parametrize("file", SAMPLE, ids=lambda file: str(file.relative_to(ROOT)))
def test_stages_of_the_files_in_configs_parse(file, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for words in read_stages(file):
        if words[0] != "report":
            with pytest.raises(SystemExit) as exit_:
                main([*words, "--print_config"])
            assert exit_.value.code == 0, (words, capsys.readouterr().err)


def test_the_short_quickstart_is_the_quickstart():
    long, short = (read_stages(ROOT / f"configs/digits/{name}.yaml") for name in ("experiment", "experiment_short"))
    assert [words[:3] for words in short] == [words[:3] for words in long]
    weights = [words[words.index("--model.classifier.checkpoint") + 1] for words in (long[-1], short[-1])]
    assert weights == [f"runs/{name}/classifier/classifier.safetensors" for name in ("digits", "short")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stages: fit", "a list of commands"),
        ("stages: []", "a list of commands"),
        ("- fit", "a list of commands"),
        ("stages: [train --config x]", "must begin with one of .*got 'train --config x'"),
        ("stages: [", "is no YAML"),
        ("stages: [fit]\nstage: [fit]", "unknown key 'stage'; known: stages"),
        (None, "there is no file .*experiment.yaml"),
    ],
    ids=["word", "empty", "list", "verb", "yaml", "two", "missing"],
)
def test_mistakes_in_a_file_are_one_line(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "experiment.yaml").write_text(content)
    assert main(["experiment", str(tmp_path / "experiment.yaml")]) == 1
    first, *others = capsys.readouterr().err.splitlines()
    assert re.search(message, first) and len(others) == 1


def test_stages_run_in_order_until_one_fails(tmp_path, monkeypatch, capsys):
    seen = []

    def run(words):
        seen.append(shlex.join(words))
        return 3 if words[0] == "test" else 0

    monkeypatch.setattr(experiment, "run", run)
    file = written(tmp_path, "predict --config a", "report b", "test --config c", "report d")
    with pytest.raises(SystemExit) as exit_:
        main(["experiment", str(file), "--trainer.devices", "2"])
    assert exit_.value.code == 3
    assert seen == ["predict --config a --trainer.devices 2", "report b", "test --config c --trainer.devices 2"]
    assert "Stage 3 of 4: lit-pursamere test" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_it_is_started_once(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match="stages one by one"):
        experiment.experiment(written(tmp_path, "report a"))


def test_a_stage_has_a_process_and_a_status_of_its_own(tmp_path):
    assert experiment.run(["--version"]) == 0
    assert experiment.run(["report", str(tmp_path)]) == 1


def test_a_fit_that_would_begin_again_every_time_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(experiment, "run", lambda words: 0)
    fit = "fit --config configs/digits/classifier.yaml"
    assert main(["experiment", str(written(tmp_path, fit, f"{fit} --model.export null --ckpt_path=last"))]) == 0
    assert main(["experiment", str(written(tmp_path, f"{fit} --model.export null"))]) == 1
    assert re.search(r"needs `model\.export`", capsys.readouterr().err)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_killed_in_the_middle_of_a_training_it_goes_on(tmp_path, monkeypatch):
    """SIGKILL for the experiment and its stage; the same command makes what would have been made in one go."""
    monkeypatch.chdir(ROOT)

    def command(name):
        folder = tmp_path / name
        folder.mkdir()
        fit = (
            "fit --config=configs/digits/classifier.yaml --data.purified=null --data.val_size=1300 "
            "--model.classifier.width=1 --trainer.max_epochs=12 --trainer.limit_val_batches=0 "
            f"--trainer.enable_progress_bar=false --trainer.logger.save_dir={folder} "
            f"--model.export={folder}/net.safetensors"
        )
        return [sys.executable, "-m", "lit_pursamere", "experiment", str(written(folder, fit))]

    subprocess.run(command("whole"), check=True, capture_output=True)
    killed, checkpoints = command("killed"), tmp_path / "killed/classifier/logs/checkpoints"
    process = subprocess.Popen(killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while not [*checkpoints.glob("last.ckpt")] and process.poll() is None:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed/net.safetensors").exists(), "it was killed before its end"
    said = subprocess.run(killed, check=True, capture_output=True, text=True)
    assert "Restor" in said.stdout + said.stderr and "is complete" not in said.stdout
    for name, value in load_file(tmp_path / "whole/net.safetensors").items():
        assert torch.equal(value, load_file(tmp_path / "killed/net.safetensors")[name]), name
    assert "net.safetensors is complete" in subprocess.run(killed, check=True, capture_output=True, text=True).stdout
