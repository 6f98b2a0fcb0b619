"""What a training tells while it runs: how far it is, and how long it took."""

from __future__ import annotations

import math
import sys
import time
from typing import TypeVar

import pytorch_lightning as pl

from lit_pursamere.progress import Progress

__all__ = ["Clock", "PlainLines", "callback_of"]

Callback = TypeVar("Callback", bound=pl.Callback)


def callback_of(trainer: pl.Trainer, kind: type[Callback]) -> Callback | None:
    """The first callback of a kind that a trainer has."""
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


class PlainLines(pl.Callback):
    """Says how far a training is, by a plain line now and then, where Lightning's bar cannot be drawn."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps, bar = trainer.estimated_stepping_batches, trainer.progress_bar_callback
        hidden = bar is None or sys.stderr.isatty() or not trainer.is_global_zero or math.isinf(steps)
        self.progress = Progress("fit", "step", 0 if hidden else int(steps), hidden)
        self.progress.advance(trainer.global_step, skipped=True)

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: object) -> None:
        self.progress(trainer.global_step)


class Clock(pl.Callback):
    """Hours that a training took so far over all its interruptions, logged with every validation and in its card.

    `time/hours` passed on the clock, `time/core_hours` were computed by this process on all its cores; machines that
    are shared delay the former only. What came after the last checkpoint before a kill is done again, not counted.
    """

    PREFIX = "time/"

    def __init__(self) -> None:
        self.spent = {"hours": 0.0, "core_hours": 0.0}
        self.started: dict[str, float] | None = None

    def now(self) -> dict[str, float]:
        return {"hours": time.monotonic() / 3600, "core_hours": time.process_time() / 3600}

    def total(self) -> dict[str, float]:
        """Hours spent, by name."""
        begun, now = self.started or self.now(), self.now()
        return {name: self.spent[name] + now[name] - begun[name] for name in now}

    def named(self) -> dict[str, float]:
        """`total` by the names of the logs."""
        return {self.PREFIX + name: hours for name, hours in self.total().items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = self.now()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and self.started is not None:
            pl_module.log_dict(self.named(), rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.spent, self.started = self.total(), None

    def state_dict(self) -> dict[str, float]:
        return self.total()

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.spent = dict(state)
