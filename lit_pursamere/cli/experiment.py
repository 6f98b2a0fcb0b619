"""An experiment: command lines that build on one another, run in order; started again, it goes on where it stopped.

    for each stage:  its own process;  the first that fails ends the experiment

Every stage knows by itself what is done, and refuses what another configuration made. A file of an experiment has one
entry, `stages`: a list of what would stand after `lit-pursamere` on the command line.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from lit_pursamere.cli.plan import section
from lit_pursamere.cli.usage import LIGHTNING_VERBS, VERBS
from lit_pursamere.configuration.composition import gathered, read_yaml
from lit_pursamere.ending import command, ending
from lit_pursamere.stopping import running

__all__ = ["experiment", "read_stages"]


def read_stages(path: Path) -> list[list[str]]:
    """The stages of an experiment's file, each split into words.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a list of commands under `stages`.
    """
    content = read_yaml(path)
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, list) or not stages or not all(isinstance(stage, str) for stage in stages):
        raise ValueError(f"{path} needs an entry `stages`, a list of commands such as `fit --config FILE`")
    section(content, str(path), known=("stages",))
    commands = [shlex.split(stage) for stage in stages]
    known = [verb for verb in VERBS if verb != "experiment"]
    for words in commands:
        if not words or words[0] not in known:
            raise ValueError(f"a stage of {path} must begin with one of {', '.join(known)}; got {shlex.join(words)!r}")
    return commands


def experiment(file: Path, *options: str) -> None:
    """Run the stages that a file lists, in order; started again, go on where it stopped.

    Further options go to every stage that has a trainer: --trainer.devices 8 --trainer.strategy ddp

    Args:
        file: YAML with a list `stages` of command lines.
        options: Options of every stage that has a trainer.

    Raises:
        ValueError: If a `fit` could not be continued, or several processes were started at once.
        SystemExit: If a stage fails, with its status.
    """
    if any(int(os.environ.get(name, 1)) > 1 for name in ("WORLD_SIZE", "SLURM_NTASKS")):
        raise ValueError(
            "an experiment starts its processes itself, on one machine (--trainer.devices 8 --trainer.strategy ddp); "
            "under torchrun or srun start its stages one by one"
        )
    stages = [[*words, *(options if words[0] in LIGHTNING_VERBS else ())] for words in read_stages(file)]
    for number, words in enumerate(stages, start=1):
        print(f"\nStage {number} of {len(stages)}: lit-pursamere {shlex.join(words)}", flush=True)
        require_export(words)
        if status := run(words):
            print(
                f"stage {number} ended with status {status}; once that is mended, the same command continues",
                file=sys.stderr,
            )
            raise SystemExit(status)
    print(f"\n{last_line(file, stages)}")


def last_line(file: Path, stages: list[list[str]]) -> str:
    """How an experiment ends: with the result of its last `test`, where that says its folder."""
    made, tests = f"all {len(stages)} stages of {file} are done", [words for words in stages if words[0] == "test"]
    output = setting(tests[-1], "output") if tests else None
    if output is None or not Path(output).is_dir():
        return ending(made, then=command(*stages[-1]))
    from lit_pursamere.report import make_report  # heavy
    from lit_pursamere.report.headline import headline

    return ending(f"{made}, results in {output}", headline(make_report([output])), command("report", output))


def require_export(words: list[str]) -> None:
    """Refuse a `fit` that would begin again every time.

    Raises:
        ValueError: If it has neither `model.export` nor a checkpoint to start from.
    """
    if words[0] != "fit" or "--ckpt_path" in " ".join(words):
        return
    if setting(words, "export") is None:
        raise ValueError("a `fit` in an experiment needs `model.export`: the file by which it is known to be complete")


def setting(words: list[str], name: str) -> str | None:
    """What the words of a stage and its files say of an argument of its model."""
    model = gathered(words)[0].get("model")
    return (model.get("init_args") or {}).get(name) if isinstance(model, dict) else None


def run(words: list[str]) -> int:
    """Run one command in a process of its own, which is told if this one is to end."""
    with running([sys.executable, "-m", "lit_pursamere", *words]) as process:
        status = process.wait()
    return status if status >= 0 else 128 - status
