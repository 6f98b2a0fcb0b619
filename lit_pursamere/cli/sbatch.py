"""`lit-pursamere sbatch`: a `predict`, `test` or `certify` as an array of SLURM jobs, one a shard.

lit-pursamere sbatch test --shards 64 --config cifar10/tables_1_2 --model.output runs/table
lit-pursamere sbatch test --shards 64 --script array.sh --config cifar10/tables_1_2 --model.output runs/table
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from lit_pursamere.cli.shards import Job, commands
from lit_pursamere.ending import ending
from lit_pursamere.store.atomic import write_whole

__all__ = ["sbatch"]

LIMIT = "#SBATCH --"


def sbatch(
    verb: Literal["predict", "test", "certify"],
    *options: str,
    shards: int = 8,
    folder: Path = Path("runs/sbatch"),
    script: Path | None = None,
    minutes: int = 240,
    gpus: int = 1,
    cpus: int = 4,
    memory: int = 16,
    at_once: int = 64,
    slurm: list[str] | None = None,
) -> None:
    """Submit a `predict`, `test` or `certify` to SLURM as an array of jobs, one a shard.

    A job whose time is up, or whose place another one takes, is submitted again; its shard goes on where it stopped.

    Args:
        verb: What the shards do.
        options: Options of the verb.
        shards: How many jobs.
        folder: Folder of their logs, which all machines see.
        script: Write the array as a script for `sbatch` to this file, and submit nothing.
        minutes: Time of a job.
        gpus: GPUs of a job.
        cpus: CPU cores of a job.
        memory: Memory of a job, GB.
        at_once: How many jobs run at a time.
        slurm: Further settings of SLURM, such as partition=gpu account=me.

    Raises:
        ValueError: If an argument is wrong, or submitit is not installed.
        OSError: If a file cannot be written.
        RuntimeError: If there is no SLURM here.
    """
    words = commands(verb, options, shards)
    for name, value, least in (("minutes", minutes, 1), ("gpus", gpus, 0), ("cpus", cpus, 1), ("memory", memory, 1),
                               ("at_once", at_once, 1)):  # fmt: skip
        if value < least:
            raise ValueError(f"--{name} must be at least {least}; got {value}")
    if wrong := [setting for setting in slurm or () if "=" not in setting]:
        raise ValueError(f"--slurm takes settings NAME=VALUE; got {wrong[0]!r}")
    further = dict(setting.split("=", 1) for setting in slurm or ())
    if script is not None:
        for place in (script.parent, folder):  # SLURM makes no folder for a log
            place.mkdir(parents=True, exist_ok=True)
        limits = {
            "job-name": f"lit-pursamere-{verb}", "array": f"0-{shards - 1}%{at_once}", "time": minutes,
            **({"gpus-per-node": gpus} if gpus else {}), "cpus-per-task": cpus, "mem": f"{memory}G",
            "output": folder / "%A_%a.log", "open-mode": "append", **further,
        }  # fmt: skip
        write_whole(script, array_script(limits, [verb, *options], shards).encode())
        print(ending(f"an array of {shards} shards in {script}", then=f"sbatch {shlex.quote(str(script))}"))
        return
    try:
        import submitit
    except ImportError as error:
        raise ValueError(
            "sbatch needs submitit, the extra `slurm`: pip install 'lit_pursamere[slurm]'; --script FILE does without"
        ) from error
    executor = submitit.AutoExecutor(folder, cluster="slurm")
    executor.update_parameters(
        name=f"lit-pursamere-{verb}", timeout_min=minutes, gpus_per_node=gpus, cpus_per_task=cpus, mem_gb=memory,
        slurm_array_parallelism=at_once, slurm_additional_parameters=further,
    )  # fmt: skip
    jobs = submit(executor, words)
    number = str(jobs[0].job_id).partition("_")[0]
    print(ending(f"{shards} shards submitted as job {number}, logs in {folder}", then=f"squeue --job {number}"))


def submit(executor: Any, words: list[list[str]]) -> list[Any]:
    """Hand commands to one of submitit's executors; returns its jobs, one a command."""
    return executor.map_array(Job(), [str(Path.cwd())] * len(words), words)


def array_script(limits: dict[str, object], words: list[str], shards: int) -> str:
    """A script for `sbatch`, which needs nothing but this package.

    Args:
        limits: Settings of SLURM.
        words: Verb and options.
        shards: How many jobs.
    """
    lines = [
        "#!/bin/bash",
        *(f"{LIMIT}{name}={value}" for name, value in limits.items()),
        f"{LIMIT}requeue",
        f"cd {shlex.quote(str(Path.cwd()))}",
        f'srun lit-pursamere {shlex.join(words)} --shard "$SLURM_ARRAY_TASK_ID/{shards}"',
    ]
    return "\n".join(lines) + "\n"
