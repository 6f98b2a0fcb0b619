"""`data.eval_batch_size auto`: as many images a batch as fit into memory, the same for everybody who shares a folder.

the folder states one already  ->  that one
else  every process looks how many fit on its device, and the least of these is everybody's; of shards, which know
      of no other, the first one says it for all
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn

from lit_pursamere.data import ImageDataModule
from lit_pursamere.defense import Defense
from lit_pursamere.preflight.memory import IMAGES, fitting_batch_size
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.sharding import Shard
from lit_pursamere.stopping import left_to_first
from lit_pursamere.store.certificates import Certificates
from lit_pursamere.store.manifest import read_manifest
from lit_pursamere.store.records import Records
from lit_pursamere.tasks import LitPurification

__all__ = ["FittingBatch", "evaluated", "for_everybody"]

MOST = {"cuda": 1024}  # a pool of LitRobustness; elsewhere the 128 of the data, where more gain nothing
CLAIM = ".eval_batch_size"  # in the folder of shards: what the first of them has found


class FittingBatch(pl.Callback):
    """Sets `eval_batch_size` of the data after the processes of a run have found each other, before they read images.

    Args:
        verb: `test` or `predict`.
    """

    def __init__(self, verb: str) -> None:
        self.verb = verb

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        stated = trainer.strategy.broadcast(recorded(pl_module) if trainer.is_global_zero else None)
        size = stated or self.found(trainer, pl_module, data)
        if not stated and data.shard:
            size = trainer.strategy.broadcast(claimed(pl_module.output, size) if trainer.is_global_zero else size)
        data.eval_batch_size, data.automatic = size, False
        where = f"as stated in {pl_module.output}" if stated else "as many as fit and are of use"
        rank_zero_info(f"lit-pursamere: batches of {size} images, {where}")

    def found(self, trainer: pl.Trainer, task: Any, data: ImageDataModule) -> int:
        """How many images fit on the devices of all processes.

        Raises:
            ValueError: If not even one fits; the first process complains for all.
        """
        answer: int | str
        try:
            answer = self.fitting(trainer, task, data)
        except ValueError as error:
            answer = str(error)
        answers: list[Any] = [answer] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(answers, answer)
        if refusals := [one for one in answers if isinstance(one, str)]:
            raise ValueError(refusals[0]) if trainer.is_global_zero else left_to_first()
        return min(answers)

    def fitting(self, trainer: pl.Trainer, task: Any, data: ImageDataModule) -> int:
        """How many images fit on the device of this process."""
        count, precision = evaluated(data, self.verb), trainer.precision_plugin
        device = trainer.strategy.root_device
        most = for_everybody(MOST.get(device.type, data.eval_batch_size), count, trainer, data.shard)
        defense, attacks = looked_at(precision.convert_module(task).to(device))
        images = precision.convert_input(self.few(data)).to(device)
        sharers = trainer.num_devices if device.type == "cpu" else 1
        with precision.forward_context(), forked_randomness(0, "batch size"):
            return fitting_batch_size(defense, attacks, images, most, sharers)

    def few(self, data: ImageDataModule) -> Tensor:
        """A few of the images that the run is about."""
        positions = data.test_indices() if self.verb == "test" else data.indices(data.evaluate)
        source = data.sources["test" if data.evaluate == "test" else "train"]
        return torch.stack([source[position][0] for position in positions[:IMAGES]])


def looked_at(task: Any) -> tuple[Defense, dict[str, Any]]:
    """What a run does to its images: the defence with the attacks on it, or a purifier without any."""
    if isinstance(task, LitPurification):
        return Defense(task.purifier, nn.Identity()), {}
    return next(iter(task.systems.values())), task.attacks


def evaluated(data: ImageDataModule, verb: str) -> int:
    """How many images `test` or `predict` are about."""
    return len(data.test_indices() if verb == "test" else data.indices(data.evaluate))


def for_everybody(most: int, images: int, trainer: pl.Trainer, shard: Shard) -> int:
    """The largest batch, up to `most`, at which every process of every shard has one."""
    return max(1, min(most, images // shard.place(0, trainer.world_size)[1]))


def recorded(task: Any) -> int | None:
    """The size of a batch that the results in the folder of a task are bound to."""
    manifest = read_manifest(task.output) or {}
    if isinstance(task, LitPurification):
        return manifest.get("part")
    # A manifest without rows binds nothing.
    return manifest.get("slots") if Records.has_rows(task.output) or Certificates.has_rows(task.output) else None


def claimed(folder: Path, size: int) -> int:
    """The size that the first of several shards has put down in their folder: this one, if nobody was before."""
    folder.mkdir(parents=True, exist_ok=True)
    own, claim = folder / f"{CLAIM}.{socket.gethostname()}-{os.getpid()}", folder / CLAIM
    own.write_text(f"{size}\n", encoding="ascii")
    with suppress(FileExistsError):
        os.link(own, claim)  # in one step, whole, and only if there is none
    own.unlink()
    return int(claim.read_text(encoding="ascii"))
