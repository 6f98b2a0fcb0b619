"""Whatever goes wrong is one line, which names what, where and what to do; its traceback is in a file that it names."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lit_pursamere.cli import main as command
from lit_pursamere.cli.main import main

TEST = """
model:
  class_path: LitRobustness
  init_args:
    purifier: Identity
    classifier: {class_path: lit_pursamere.networks.WideResNet, init_args: {depth: 10, width: 1, channels: 1}}
    attacks: {PGD: {class_path: PGD, init_args: {threat: {norm: linf, eps: 0.15}, steps: 1}}}
    output: out
data: {class_path: Digits, init_args: {eval_batch_size: 4, test_size: 8}}
trainer: {accelerator: cpu, logger: false, enable_progress_bar: false}
"""
FIT = ["fit", "--model=LitClassifier", "--model.classifier=lit_pursamere.networks.WideResNet"]
FIT += ["--model.classifier.depth=10", "--model.classifier.width=1", "--model.classifier.channels=1", "--data=Digits"]
FIT += ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Runs a command in an empty folder; returns its line and the traceback, after a look at the form of both."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test.yaml").write_text(TEST)

    def run(*args: str) -> tuple[str, str]:
        assert main([*args]) == 1
        *_, line, where = capsys.readouterr().err.splitlines()
        assert line.startswith("lit-pursamere: error: ") and line.isprintable()
        file = re.fullmatch(r"\(LIT_PURSAMERE_TRACEBACK=1 shows where it came from; so does (.*)\)", where)
        traceback = Path(file[1]).read_text()
        assert "Traceback (most recent call last)" in traceback
        assert not list(tmp_path.glob("*.log")), "the current folder is left as it was"
        return line.removeprefix("lit-pursamere: error: "), traceback

    return run


def failing(error):
    def run(*unused):
        raise error

    return run


def found_nothing(*unused):
    return {}["votes"]


def parsed_badly(*unused):
    return float("\x1b[31mred")


def multiplied_badly(*unused):
    return torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (found_nothing, "KeyError: 'votes' ("),
        (parsed_badly, r"ValueError: could not convert string to float: '\x1b[31mred' ("),
        (multiplied_badly, "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3) ("),
        (failing(AssertionError()), "AssertionError: without a message ("),
        (failing(TypeError("no\nline")), "TypeError: no line ("),
    ],
)
def test_an_error_that_nobody_foresaw_says_its_kind_and_its_place(fault, line, told, monkeypatch):
    monkeypatch.setattr(command, "run", fault)
    found, traceback = told("report", "x")
    assert found.startswith(line) and re.search(rf"\({re.escape(__file__)}:\d+\)$", found)
    assert line.partition(":")[0] in traceback


def test_a_network_for_other_channels_says_what_to_set(told, monkeypatch):
    monkeypatch.setattr(command, "run", lambda *unused: torch.nn.Conv2d(3, 4, 1)(torch.zeros(2, 1, 4, 4)))
    assert re.search(r"to have 3 channels, but got 1 channels instead .*; give .*\(data.channels\)", told("fit")[0])


def test_what_somebody_raised_for_readers_is_what_they_read(told, monkeypatch):
    monkeypatch.setattr(command, "run", failing(ValueError("rho must be \x1b[31mpositive\n; got -1")))
    assert told("report", "x")[0] == r"rho must be \x1b[31mpositive ; got -1"
    monkeypatch.setattr(command, "run", failing(ValueError("x" * 9000)))
    assert len(told("report", "x")[0]) < 1100


def test_debugging_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("LIT_PURSAMERE_TRACEBACK", "1")
    monkeypatch.setattr(command, "run", failing(KeyError("votes")))
    with pytest.raises(KeyError):
        main(["report", "x"])


@pytest.mark.parametrize("length", [10, 100_000], ids=["found at the end", "found while printing"])
@pytest.mark.parametrize("word", ["report", "--help"])
def test_output_that_nobody_reads_to_its_end_is_no_error(word, length, monkeypatch, capfd):
    """As with `lit-pursamere report RUN | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(command, "heed", lambda *signals: None)
    monkeypatch.setattr(command, "run", lambda *unused: print("x" * length) or (word == "--help" and sys.exit(0)))
    monkeypatch.setattr(sys, "argv", ["lit-pursamere", "report"])
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as end:
            command.console()
    assert end.value.code == (0 if word == "--help" and length == 10 else 141)
    assert capfd.readouterr().err == ""


GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 4 GiB")


@pytest.mark.parametrize(
    ("verb", "allocate", "line"),
    [
        ("test", lambda *unused: torch.empty(2**55), "on this machine (asked for 144115188075855872 bytes); lower"),
        ("fit", lambda *unused: np.zeros((2**25, 2**25)), "on this machine (asked for 8.00 PiB); lower data.batch"),
        ("purify", failing(MemoryError()), "on this machine; lower --batch_size"),
        ("audit", failing(GPU), "on the GPU (asked for 20.00 GiB); lower data.eval_batch_size, or eot_chunk"),
    ],
    ids=["torch", "numpy", "python", "GPU"],
)  # fmt: skip
def test_running_out_of_memory_says_so_and_what_to_lower(verb, allocate, line, told, monkeypatch):
    monkeypatch.setattr(command, "run", allocate)
    assert told(verb)[0].startswith(f"out of memory {line}")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["test", "--config=test.yaml", "--trainer.inference_mode=true"], "attacks need gradients.*inference_mode"),
        (["fit", "--config=test.yaml"], "No `training_step.*LitRobustness for test"),
        (["predict", *FIT[1:]], "LitClassifier is for fit and validate; predict is for LitPurification"),
        (["predict", "--config=test.yaml"], "LitPurification for predict, LitRobustness for test"),
        ([*FIT, "--trainer.logger=false", "--trainer.callbacks=LearningRateMonitor"], "that has no logger; keep the"),
        (
            [*FIT, "--trainer.enable_checkpointing=false", "--trainer.callbacks=ModelCheckpoint"],
            "leave that option out",
        ),
        (["test", "--config=test.yaml", "--trainer.devices=0"], r"devices='0'"),
        (["test", "--config=test.yaml", "--trainer.strategy=nope"], "invalid strategy name: `strategy='nope'`"),
    ],
)
def test_what_lightning_complains_of_is_one_line(args, line, told):
    assert re.search(line, told(*args)[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_one_line(told):
    line, _ = told("test", "--config=test.yaml", "--trainer.accelerator=gpu")
    assert line == "No supported gpu backend found; there is none here: --trainer.accelerator cpu"


def test_processes_that_slurm_started_otherwise_are_one_line(told, monkeypatch):
    for name in ("NTASKS", "JOB_ID", "JOB_NAME", "PROCID", "LOCALID", "NODEID", "NODELIST"):
        monkeypatch.setenv(f"SLURM_{name}", {"NTASKS": "4", "JOB_NAME": "job", "NODELIST": "localhost"}.get(name, "0"))
    assert "--ntasks-per-node=4" in told("test", "--config=test.yaml")[0]


def test_a_checkpoint_of_another_network_names_a_few_of_its_tensors(told, monkeypatch):
    def meets_another(*unused):
        torch.nn.Sequential(*[torch.nn.Linear(1, 1) for _ in range(100)]).load_state_dict({})

    monkeypatch.setattr(command, "run", meets_another)
    line, _ = told("fit")
    assert 'Missing key(s) in state_dict: "0.weight", "0.bias", "1.weight" and 197 more' in line and len(line) < 400
