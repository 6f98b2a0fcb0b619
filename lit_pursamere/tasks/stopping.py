"""A Trainer that is told to stop ends at once, with all its processes; Lightning's own handler waits for a barrier.

For `configure_callbacks` of a task: `Stopping()`. From the start of a stage on SIGTERM raises SystemExit(143) out of
`trainer.fit`, `test`, `predict` (`trainer.interrupted` is then true), in every process of the run, whichever was told.
"""

from __future__ import annotations

import os
import signal
import socket

import pytorch_lightning as pl
import torch.distributed
from lightning_fabric.plugins.environments import LightningEnvironment

from lit_pursamere.stopping import Companions, end_without, expect, heed

__all__ = ["Stopping"]


class Stopping(pl.Callback):
    """Makes a stage of a Trainer heed SIGTERM, and its processes end together."""

    companions: Companions | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            self.companions = Companions(neighbours())
            if launched(trainer):
                end_without(os.getppid())

    # Lightning puts its own handler in place after `setup`.
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        heed(signal.SIGTERM)

    on_train_start = on_validation_start = on_test_start = on_predict_start = on_sanity_check_start

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.companions is not None:
            self.companions.close()
            self.companions = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.strategy.launcher is not None:  # processes that this one has launched do not outlive it
            if not isinstance(exception, SystemExit):
                expect()
            trainer.strategy.launcher.kill(signal.SIGTERM)
        if isinstance(exception, SystemExit) and launched(trainer):
            exception.code = 0  # or Lightning would kill the process that launched this one before it has ended


def launched(trainer: pl.Trainer) -> bool:
    """Whether another process of this run has launched this one."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def neighbours() -> list[int]:
    """Ids of the other processes of the run on this machine."""
    here = socket.gethostname(), os.getpid()
    places: list[tuple[str, int]] = [here] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(places, here)
    return [process for host, process in places if host == here[0] and process != here[1]]
