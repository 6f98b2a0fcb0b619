"""`lit-pursamere ray`: a `predict`, `test` or `certify` on the machines of a Ray cluster, shard by shard.

lit-pursamere ray test --shards 64 --config cifar10/tables_1_2 --model.output /shared/table
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from lit_pursamere.cli.shards import Job, commands
from lit_pursamere.ending import ending
from lit_pursamere.progress import Progress

__all__ = ["ray"]


def ray(
    verb: Literal["predict", "test", "certify"],
    *options: str,
    shards: int = 8,
    gpus: float | None = None,
    cpus: float = 1.0,
    retries: int = 10,
    address: str | None = None,
) -> None:
    """Run a `predict`, `test` or `certify` on a Ray cluster, shard by shard.

    Ray finds free GPUs, starts the shards there, and starts those again whose process or machine is lost. All machines
    must see the folder of the configuration and that of the results under the same names.

    Args:
        verb: What the shards do.
        options: Options of the verb.
        shards: How many parts; a few for each GPU, so that a lost one costs little.
        gpus: GPUs of a shard (default: 1 where the cluster has any); 0.5: two share one.
        cpus: CPU cores of a shard.
        retries: How often a shard is started again whose process or machine was lost; -1: always.
        address: Of the cluster (default: RAY_ADDRESS, or this machine alone).

    Raises:
        ValueError: If an argument is wrong, or Ray is not installed.
        RuntimeError: If shards failed.
    """
    words = commands(verb, options, shards)
    if cpus <= 0 or (gpus or 0) < 0 or retries < -1:
        raise ValueError(
            f"--cpus must be above 0, --gpus at least 0, --retries at least -1; got {cpus}, {gpus}, {retries}"
        )
    try:
        import ray as cluster
    except ImportError as error:
        raise ValueError("ray needs Ray, the extra `ray`: pip install 'lit_pursamere[ray]'") from error
    began = not cluster.is_initialized()
    if began:
        cluster.init(address=address, include_dashboard=False if address is None else None)
    try:
        each = {"num_cpus": cpus, "num_gpus": default_gpus(cluster) if gpus is None else gpus, "max_retries": retries}
        failed = finished(cluster, cluster.remote(**each)(run), words)
    finally:
        if began:
            cluster.shutdown()
    if failed:
        told = next(iter(failed.values()))
        raise RuntimeError(f"{len(failed)} of {shards} shards failed ({', '.join(failed)}); the first: {told}")
    print(ending(f"{shards} shards are done", then="the line above that one of them ended with"))


def run(folder: str, words: list[str]) -> None:
    """Run the command of a shard in a worker of Ray."""
    Job()(folder, words)


def default_gpus(cluster: Any) -> int:
    """GPUs of a shard: one, if the cluster has any."""
    return int(cluster.cluster_resources().get("GPU", 0) > 0)


def finished(cluster: Any, task: Any, words: list[list[str]]) -> dict[str, str]:
    """Run commands as tasks until all have ended.

    Args:
        cluster: The module `ray`.
        task: The remote function.
        words: The commands.

    Returns:
        What went wrong, by the shards in which something did.
    """
    waiting = {task.remote(str(Path.cwd()), one): one[-1].partition("=")[2] for one in words}
    failed: dict[str, str] = {}
    with Progress("ray", "shard", len(words)) as progress:
        while waiting:
            (done,), _ = cluster.wait(list(waiting), num_returns=1)
            shard = waiting.pop(done)
            try:
                cluster.get(done)
            except cluster.exceptions.RayError as error:
                failed[shard] = str(error).strip().splitlines()[-1]
                print(f"shard {shard} failed: {failed[shard]}", file=sys.stderr)
            progress.advance(1)
    return failed
