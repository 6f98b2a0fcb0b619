"""Estimate a run from the objects that its configuration describes."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import pytorch_lightning as pl
import torch

from lit_pursamere.data import ImageDataModule
from lit_pursamere.estimate.evaluation import ask_once, evaluation_stages, purification_stages
from lit_pursamere.estimate.memory import free_bytes, require_room
from lit_pursamere.estimate.stages import quantity, table
from lit_pursamere.estimate.stand_ins import pair_with_itself
from lit_pursamere.estimate.training import training_stages
from lit_pursamere.store.provenance import device_name
from lit_pursamere.tasks import LitPurification, LitRobustness
from lit_pursamere.tasks.folder_task import require_precision
from lit_pursamere.tasks.training import Training

__all__ = ["Estimate", "run_estimate"]


@dataclass(frozen=True)
class Estimate:
    """How a run is estimated.

    Args:
        devices: Show the time on so many devices as well, at ideal scaling.
        seconds: How long steps, purifications and derivatives are clocked, each; the first few of their steps are
            taken in any case.

    Raises:
        ValueError: If a number is too small.
    """

    devices: int = 1
    seconds: float = 5.0

    def __post_init__(self) -> None:
        if self.devices < 1 or self.seconds <= 0:
            raise ValueError(f"Estimate needs devices >= 1 and seconds > 0; got {self.devices} and {self.seconds}")


def run_estimate(
    estimate: Estimate, task: pl.LightningModule, data: ImageDataModule, trainer: pl.Trainer, settings: dict
) -> str:
    """Measure on this machine what a run will cost, without writing anything into its folders.

    Args:
        estimate: How.
        task: What is run; a training is trained for a few steps.
        data: Its data.
        trainer: Its trainer, for device and precision; it runs nothing.
        settings: Arguments of the trainer.

    Returns:
        Markdown: the stages with FLOP and time, then memory, and what the numbers leave out.

    Raises:
        ValueError: If the run is none that can be estimated.
    """
    device = trainer.strategy.root_device
    pair_with_itself(data)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    if isinstance(task, Training):
        ratio: float | None
        with quiet():
            stages, ratio = training_stages(task, data, settings, estimate.seconds, device)
    elif isinstance(task, LitPurification | LitRobustness):
        stages, ratio = evaluated(estimate, task, data, trainer)
    else:
        raise ValueError(f"nothing is known of the cost of {type(task).__name__}")
    agreement = "" if ratio is None else f" The flop counter gives {ratio:.3f} of the formula on a few steps."
    scaling = "" if estimate.devices == 1 else (
        f"{estimate.devices} devices: ideal scaling, as if they never waited for one another; batches dealt whole.\n"
    )  # fmt: skip
    return (
        f"{type(task).__name__} on {device_name(device)}, precision {trainer.precision}\n\n"
        f"{table(stages, estimate.devices)}\n"
        f"Times are extrapolated from the first steps on this machine.{agreement}\n{scaling}"
        f"Memory: weights {weights(task)}, {peak(device)}\n"
        "Not in these numbers: start and compilation, checkpoints, pictures and samples.\n"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No words inside from the trainers that only measure."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def evaluated(
    estimate: Estimate, task: LitPurification | LitRobustness, data: ImageDataModule, trainer: pl.Trainer
) -> tuple[list, float | None]:
    """Stages of a `predict` or `test`."""
    require_precision(trainer)
    precision = trainer.precision_plugin
    test = isinstance(task, LitRobustness)
    data.prepare_data()
    data.setup("test" if test else "predict")
    x, y, _ = next(iter(data.test_dataloader() if test else data.predict_dataloader()))
    precision.convert_module(task).to(trainer.strategy.root_device)
    x, y = precision.convert_input(x).to(task.device), y.to(task.device)
    with precision.forward_context():
        work = partial(ask_once, task, x)
        require_room(work, len(x), free_bytes(task.device), "data.eval_batch_size")
        if isinstance(task, LitRobustness):
            return evaluation_stages(task, x, y, len(data.test_indices()), data.num_classes, estimate.seconds)
        images = len(data.indices(data.evaluate))
        return purification_stages(task, x, images, data.num_classes, estimate.seconds)


def weights(task: pl.LightningModule) -> str:
    """Bytes of all parameters and buffers."""
    tensors = {id(t): t for t in chain(task.parameters(), task.buffers())}.values()
    return quantity(sum(t.nbytes for t in tensors), "B")


def peak(device: torch.device) -> str:
    """The most memory that was in use so far, in words."""
    if device.type == "cuda":
        return f"peak {quantity(torch.cuda.max_memory_allocated(device), 'B')} on the device"
    factor = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor
    return f"peak {quantity(used, 'B')} (the whole process, data and libraries included)"
