"""An experiment: command lines that build on one another, run in order; started again, it goes on where it stopped.

    for each stage:  its own process;  the first that fails ends the experiment
    predict, test:   know by their folders what is done, and refuse those of another configuration
    fit:             is done if the exported weights say that this configuration made them; else it continues from its
                     last checkpoint, if there is one

A file of an experiment has one entry, `stages`: a list of what would stand after `lit-pursamere` on the command line.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from safetensors import safe_open

from lit_pursamere.cli.lightning import command_line
from lit_pursamere.store.manifest import differences
from lit_pursamere.tasks.training import Training, deciding

__all__ = ["read_stages", "remaining", "run_experiment"]

TRAINER_VERBS = ("fit", "validate", "predict", "test")
VERBS = (*TRAINER_VERBS, "report", "reverify", "figure", "audit", "estimate")


def read_stages(path: Path) -> list[list[str]]:
    """The stages of an experiment's file, each split into words.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a list of commands under `stages`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no experiment at {path} (looked from {Path.cwd()})")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, str) for stage in stages):
        raise ValueError(f"{path} needs an entry `stages`, a list of commands such as `fit --config FILE`")
    commands = [shlex.split(stage) for stage in stages]
    for words in commands:
        if not words or words[0] not in VERBS:
            raise ValueError(f"a stage of {path} must begin with one of {', '.join(VERBS)}; got {shlex.join(words)!r}")
    return commands


def run_experiment(path: Path, options: Sequence[str] = ()) -> None:
    """Run all stages of a file.

    Args:
        path: The file.
        options: Appended to every stage that has a trainer, such as `--trainer.devices 8`.

    Raises:
        ValueError: If a stage cannot be continued because something else made what is there, or several processes were
            started at once.
        SystemExit: If a stage fails, with its status.
    """
    if any(int(os.environ.get(name, 1)) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
        raise ValueError(
            "an experiment starts its processes itself, on one machine (--trainer.devices 8 --trainer.strategy ddp); "
            "under torchrun or srun start its stages one by one"
        )
    stages = read_stages(path)
    for number, words in enumerate(stages, start=1):
        words = [*words, *(options if words[0] in TRAINER_VERBS else ())]
        print(f"\nStage {number} of {len(stages)}: lit-pursamere {shlex.join(words)}", flush=True)
        todo = remaining(words)
        if todo is None:
            print("complete", flush=True)
        elif status := run(todo):
            print(f"stage {number} ended with status {status}; the same command continues", file=sys.stderr)
            raise SystemExit(status)


def run(words: list[str]) -> int:
    """Run one command in a process of its own; it is told if this one is to end."""
    process = subprocess.Popen([sys.executable, "-m", "lit_pursamere", *words])
    before = signal.signal(signal.SIGTERM, lambda *unused: process.terminate())
    try:
        status = process.wait()
    except KeyboardInterrupt:  # the stage got it, too
        status = process.wait() or 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
    return status if status >= 0 else 128 - status


def remaining(words: list[str]) -> list[str] | None:
    """The command that is left to be run of a stage; None if nothing is.

    Raises:
        ValueError: If a `fit` finds weights or a checkpoint that another configuration made.
    """
    if words[0] != "fit" or "--ckpt_path" in " ".join(words):
        return words
    cli = command_line(words[1:], run=False)
    if not isinstance(cli.model, Training) or cli.model.export is None:
        raise ValueError("a `fit` in an experiment needs `model.export`: the file by which it is known to be complete")
    wanted = deciding(yaml.safe_load(cli.parser.dump(cli.config, skip_none=False)))
    export, last = Path(cli.model.export), last_checkpoint(cli)
    if export.is_file():
        with safe_open(export, "pt") as file:
            require_same(export, json.loads((file.metadata() or {}).get("configuration", "null")), wanted)
        return None
    if last is None:
        return words
    require_same(last, torch.load(last, map_location="cpu", weights_only=True, mmap=True).get("configuration"), wanted)
    return [*words, f"--ckpt_path={last}"]


def last_checkpoint(cli: LightningCLI) -> Path | None:
    """The newest checkpoint called `last` of a training."""
    logs = Path(cli.trainer.log_dir or cli.trainer.default_root_dir) / "checkpoints"
    callbacks = [callback for callback in cli.trainer.callbacks if isinstance(callback, ModelCheckpoint)]
    folders = {Path(callback.dirpath or logs) for callback in callbacks}
    found = [file for folder in folders for file in folder.glob("last*.ckpt")]
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def require_same(file: Path, there: dict | None, now: dict) -> None:
    """Raise ValueError unless a file was made with this configuration; the message names what differs."""
    if there is None:
        raise ValueError(f"{file} does not say what configuration made it; remove it, or run the `fit` by itself")
    if found := differences(there, json.loads(json.dumps(now))):
        raise ValueError(
            f"{file} was made with another configuration ({found}); remove it, or choose another `model.export` and "
            "another folder for the logs"
        )
