"""What a training costs: a few of its own steps with its own trainer, which writes nothing, and 3 forwards of FLOP."""

from __future__ import annotations

import math
import tempfile
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_pursamere.data import ImageDataModule
from lit_pursamere.estimate.calls import FlopCount
from lit_pursamere.estimate.stages import Stage
from lit_pursamere.evaluation.cost import now
from lit_pursamere.tasks import LitClassifier, LitScoreModel
from lit_pursamere.tasks.score_model import BANDS
from lit_pursamere.tasks.training import Training

__all__ = ["training_stages"]

WARMUP, STEPS = 2, 3  # batches before the clock starts, and at least so many after
DEFAULT_EPOCHS = 1000  # what Lightning does where it is told no end


class BatchClock(pl.Callback):
    """Seconds of every batch of a training or validation; ends a training after `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit, self.last = limit, 0.0
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, *unused: Any) -> None:
        self.last = now(trainer.strategy.root_device)

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: Any) -> None:
        time = now(trainer.strategy.root_device)
        self.seconds.append(time - self.last)
        self.last = time
        timed = self.seconds[WARMUP:]
        trainer.should_stop = trainer.should_stop or (len(timed) >= STEPS and sum(timed) > self.limit)

    on_validation_epoch_start = on_train_epoch_start  # type: ignore[assignment]
    on_validation_batch_end = on_train_batch_end  # type: ignore[assignment]


def training_stages(task: Training, data: ImageDataModule, settings: dict, limit: float) -> tuple[list[Stage], float]:
    """Stages of a `fit`, and the flop counter's number for a step divided by the formula's.

    Args:
        task: The training; it is trained for a few steps.
        data: Its data.
        settings: Arguments of its trainer.
        limit: Seconds for which steps are clocked.
    """
    task.export = None
    clock, trainer = small_trainer(settings, limit, limit_val_batches=0)
    trainer.fit(task, data)
    timed = clock.seconds[WARMUP:] or clock.seconds
    epoch = int(trainer.num_training_batches)  # of the whole epoch, though it was not trained to its end
    batches = training_batches(settings, epoch)
    x = next(iter(data.train_dataloader()))[0]
    halves = x.shape[1] if x.ndim == 5 else 1
    forward, ratio = training_flop(task, (x[:1, 0] if halves > 1 else x[:1]).to(task.device))
    size = data.batch_size
    flop = 3 * forward * size * halves
    stages = [Stage("training", batches, size, flop, sum(timed) / len(timed))]
    if data.val_size:
        rounds = batches // (epoch * (settings.get("check_val_every_n_epoch") or 1))
        stages.append(validation_stage(task, data, settings, rounds, forward * halves))
    return stages, ratio


def small_trainer(settings: dict, limit: float, **changes: object) -> tuple[BatchClock, pl.Trainer]:
    """The configured trainer on one device, without anything that writes, and a clock that stops it."""
    clock = BatchClock(limit)
    small = {
        "devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False, "callbacks": [clock],
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "num_sanity_val_steps": 0, "min_epochs": None, "min_steps": None, "default_root_dir": tempfile.gettempdir(),
    }  # fmt: skip
    return clock, pl.Trainer(**{**settings, **small, **changes})


def training_batches(settings: dict, epoch: int) -> float:
    """Batches of a training whose epochs have so many, on any number of devices."""
    epochs, steps = settings.get("max_epochs"), settings.get("max_steps") or -1
    if epochs is None and steps < 0:
        epochs = DEFAULT_EPOCHS
    by_epochs = math.inf if epochs is None or epochs < 0 else epochs * epoch
    by_steps = math.inf if steps < 0 else steps * settings.get("accumulate_grad_batches", 1)
    if min(by_epochs, by_steps) == math.inf:
        raise ValueError(
            "this training has no end that could be estimated; set trainer.max_epochs or trainer.max_steps"
        )
    return min(by_epochs, by_steps)


def training_flop(task: Training, x: Tensor) -> tuple[int, float]:
    """FLOP of a forward of one image (1, C, H, W), and what torch counts with gradients divided by three of them."""
    if isinstance(task, LitClassifier):
        network: Any = task.classifier
        call: Any = network
    elif isinstance(task, LitScoreModel):
        network, call = task.score_model, partial(task.score_model, sigma=1.0)
    else:
        raise ValueError(f"only LitClassifier and LitScoreModel can be estimated; this is {type(task).__name__}")
    with FlopCount() as forward, torch.no_grad():
        call(x)
    with FlopCount() as whole:
        call(x).square().sum().backward()
    network.zero_grad()
    return forward.total, whole.total / (3 * forward.total)


def validation_stage(
    task: Training, data: ImageDataModule, settings: dict, rounds: float, forward: float
) -> Stage:  # fmt: skip
    """All validations: the first batches, attacked ones included, are clocked; the last of these stands for others."""
    first = 2
    if isinstance(task, LitClassifier) and task.attack is not None:
        first += -(-task.attacked_images // data.eval_batch_size)
    clock, trainer = small_trainer(settings, math.inf, limit_val_batches=first)
    trainer.validate(task, data, verbose=False)
    count = -(-data.val_size // data.eval_batch_size)
    seconds = sum(clock.seconds[:count]) + max(count - first, 0) * clock.seconds[-1]
    bands = min(BANDS, len(task.objective.levels)) if isinstance(task, LitScoreModel) else 1
    flop = forward * data.val_size * bands / count
    return Stage("validation", rounds * count, data.eval_batch_size, flop, seconds / count)
