"""What a training tells while it runs: how far it is, and how long it took."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar

from lit_pursamere.progress import Progress

__all__ = ["Clock", "TotalProgress", "callback_of"]

Callback = TypeVar("Callback", bound=pl.Callback)


def callback_of(trainer: pl.Trainer, kind: type[Callback]) -> Callback | None:
    """The first callback of a kind that a trainer has."""
    return next((c for c in trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]


class TotalProgress(pl.Callback):
    """Shows how far a whole training is, all epochs together, and when it will end.

    It stands in for Lightning's own bars, which count one epoch; a bar of another class, or none, stays as it is. What
    is done when a training continues counts as done, and says nothing about the time that is left.
    """

    def __init__(self) -> None:
        self.progress = Progress("fit", "step", hidden=True)
        self.within: Progress | None = None  # of a validation
        self.replaced: ProgressBar | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        bar = trainer.progress_bar_callback
        if bar is not None and type(bar) in (TQDMProgressBar, RichProgressBar) and trainer.is_global_zero:
            self.replaced = bar
            bar.disable()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = trainer.estimated_stepping_batches
        total = 0 if math.isinf(steps) else int(steps)
        self.progress = Progress("fit", "step", total, self.replaced is None, note=partial(measured, trainer))
        self.progress.advance(trainer.global_step, skipped=True)

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: object) -> None:
        self.progress(trainer.global_step)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or self.replaced is None:
            return
        batches = sum(trainer.num_val_batches)
        alone = trainer.state.fn == "validate"
        self.within = Progress("validate", "step") if alone else self.progress.inside("validate", "step")
        self.within.total = 0 if math.isinf(batches) else int(batches)

    def on_validation_batch_end(self, *unused: object) -> None:
        if self.within is not None:
            self.within.advance(1)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.within is not None:
            self.within.close()
            self.within = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.end()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.progress.close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.end()

    def end(self) -> None:
        """Take the bars off the terminal, and give Lightning's back."""
        for one in (self.within, self.progress):
            if one is not None:
                one.close()
        if self.replaced is not None:
            self.replaced.enable()
            self.replaced = None


def measured(trainer: pl.Trainer) -> str:
    """Where a training stands and what it logs for bars: "epoch 3 of 10, train/loss 0.31"."""
    epochs = f" of {trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
    numbers = [f"{name} {float(value):.4g}" for name, value in trainer.progress_bar_metrics.items()]
    return ", ".join([f"epoch {trainer.current_epoch + 1}{epochs}", *numbers])


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
