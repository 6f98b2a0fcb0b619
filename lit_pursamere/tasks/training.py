"""What every training shares: steps that can be repeated exactly after an interruption, the moving average of the
weights, learning rates, and a card for the result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io import TorchCheckpointIO
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import get_ema_multi_avg_fn

from lit_pursamere.ending import command, ending
from lit_pursamere.seeding import reseed, run_seed
from lit_pursamere.store.atomic import replacing
from lit_pursamere.store.manifest import differences
from lit_pursamere.tasks.callbacks import Clock, TotalProgress, callback_of
from lit_pursamere.tasks.deciding import configuration_of
from lit_pursamere.tasks.folder_task import require_precision
from lit_pursamere.tasks.optimisation import Asked, Plateaus, asked_of, put_in_place, require_continuable
from lit_pursamere.tasks.stopping import Stopping
from lit_pursamere.weights import model_card, save_weights
from lit_pursamere.weights.saving import safetensors_file

__all__ = [
    "ExponentialMovingAverage",
    "Training",
    "WholeCheckpoints",
    "cosine",
    "inverse_sqrt",
    "is_trial",
    "rise",
]

VALIDATION = "epoch_loop.val_loop.batch_progress"  # where a checkpoint says how far a validation is
BEGUN = {"ready": 1, "started": 1, "processed": 0, "completed": 0}


def is_trial(trainer: pl.Trainer) -> bool:
    """Whether a run only tries a few batches, and is to leave nothing behind."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether a checkpoint is written after the last batch before a validation."""
    loop: Any = trainer.fit_loop.epoch_loop
    batches = loop.batch_progress.current
    ended = batches.ready > 0 and batches.completed < batches.processed  # in `on_train_batch_end`
    return ended and trainer.enable_validation and loop._should_check_val_fx(trainer.fit_loop._data_fetcher)


def begin_with_validation(loops: dict[str, Any]) -> None:
    """Let a checkpoint of that moment go on with the validation; Lightning would go on with the next batch.

    Args:
        loops: State of the loops of a `fit`; changed to what it is when the first batch of the validation has begun.
    """
    for counted in ("total", "current"):
        loops["epoch_loop.batch_progress"][counted]["completed"] += 1
    loops[VALIDATION].update(total=dict(BEGUN), current=dict(BEGUN), is_last_batch=False)


def rise(step: int, warmup: int) -> float:
    """Factor of the learning rate that rises linearly to 1 over `warmup` steps."""
    return min((step + 1) / (warmup + 1), 1.0)


def cosine(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate that falls from 1 after the warm-up to 0 at `total` steps."""
    return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))


def inverse_sqrt(step: int, full: int) -> float:
    """Factor of the learning rate that is 1 for `full` steps and then falls with the square root of the step."""
    return math.sqrt(full / max(step, full))


def average(
    decay: float,
    warmup: bool,
    averaged: Sequence[Tensor],
    current: Sequence[Tensor],
    updates: Tensor,
    power: float | None = None,
) -> None:
    """Move averaged weights towards the current ones, in place; it is update number `updates`, from 1."""
    if power is not None:
        decay = min(decay, 1 - int(updates) ** -power)
    elif warmup:
        decay = min(decay, (1 + int(updates)) / (10 + int(updates)))
    get_ema_multi_avg_fn(decay)(averaged, current, updates)


class ExponentialMovingAverage(WeightAveraging):
    """Lightning's weight averaging, starting from the initial weights as NCSNv2's own code does.

    With `warmup` the decay is at most (1 + n) / (10 + n) after n updates, as in the code of score_sde; with a `power`
    1 - n^-power at update n, as in diffusers. With `buffers` the statistics of batch normalisation are averaged like
    the weights that they belong to.
    """

    def __init__(self, decay: float, warmup: bool = False, buffers: bool = False, power: float | None = None) -> None:
        super().__init__(use_buffers=buffers, multi_avg_fn=partial(average, decay, warmup, power=power))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":  # in bfloat16 most steps of an average are smaller than the last digit
            require_precision(trainer, "weights, so that a moving average of them (`model.ema_decay`) stands still")
        if trainer.precision == "64-true":
            pl_module.double()  # Lightning would do so after the average has been set up
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            self._average_model.n_averaged.fill_(1)  # 0 would make the first update a copy instead of a mean

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Again, because Lightning does not call on_train_end where a checkpoint of the last step is resumed.
        if self._average_model is not None:
            self._copy_average_to_current(pl_module)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the file that it replaces, and lets it take its name only when it is on disk.

    Lightning writes to the folder for temporary files and moves the result, which is a copy, and so may be cut short,
    where that folder is on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:
                cause = error.__context__
                if isinstance(cause, OSError | SystemExit | KeyboardInterrupt):  # a full disk, or a signal
                    raise cause from None  # torch tells of its own book-keeping
                raise


class Training(pl.LightningModule):
    """Base of the training tasks.

    Every step starts from its own seed, made of the run's seed, the epoch, the batch and the process, so a run that was
    stopped and continued from a checkpoint repeats one that was not: same losses, same weights. That needs a loader
    that remembers its place, as those of the data modules do.

    `configuration` is what decides the weights, see `deciding`, where the command line built the run; checkpoints and
    the exported file carry it, and the card.

    Args:
        export: Where to write the weights as safetensors when training has finished (None: nowhere).
    """

    headlines: Sequence[str] = ()  # what is measured that one looks for first
    next_verb: Sequence[str] = ()  # what to do with the exported weights: words before their name
    configuration: dict | None = None
    begun: Mapping[str, str] = MappingProxyType({})  # card of the part of the run that a checkpoint ended
    finite: Tensor | None = None  # whether all losses so far were numbers
    asked: Asked | None = None  # of optimisers and schedulers, see `asked_of`
    asked_before: Asked | None = None  # of those of the checkpoint that is continued
    beyond = 0  # steps by which the trainer's limit is raised until a validation has begun

    def __init__(self, export: str | None = None) -> None:
        super().__init__()
        self.export = None if export is None else str(safetensors_file(export))

    @property
    def data(self) -> Any:
        """The data module of the run; None where its trainer was given loaders."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        if stage == "predict":  # Lightning would call the network with a whole batch
            raise ValueError(f"{type(self).__name__} is for fit and validate; predict is for LitPurification")
        if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # nobody asked for another one
            self.trainer.strategy.checkpoint_io = WholeCheckpoints()
        self.trainer.precision_plugin.convert_module(self)  # before a checkpoint's float64 weights are put in
        if stage == "fit" and self.configuration is not None and "images" not in self.configuration:
            self.configuration["images"] = self.data.trained_on()

    def on_fit_start(self) -> None:
        if getattr(self.data, "batch_size", None):
            rank_zero_info(self.batch_line())
        self.asked = asked_of(self.trainer)
        require_continuable(self.asked_before, self.asked)

    def on_train_start(self) -> None:
        put_in_place(self.trainer, self.asked_before, self.asked or {})

    def on_validation_start(self) -> None:
        self.keep_to_limit()

    def keep_to_limit(self) -> None:
        """Lower the trainer's limit of steps again, once the validation that it was raised for has begun."""
        self.trainer.fit_loop.epoch_loop.max_steps -= self.beyond
        self.beyond = 0

    def configure_callbacks(self) -> list[pl.Callback]:
        return [TotalProgress(), Clock(), Stopping(), Plateaus()]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not isinstance(scheduler, ReduceLROnPlateau):  # see `Plateaus`
            super().lr_scheduler_step(scheduler, metric)

    def effective_batch(self) -> int:
        """Images, or pairs, that one step of the optimiser sees over all processes."""
        return self.trainer.accumulate_grad_batches * self.batch()

    def batch(self) -> int:
        """Images, or pairs, of one batch over all processes: `batch_size`, or all that there are."""
        return min(self.data.batch_size, len(self.data.indices("train")))

    def batch_line(self) -> str:
        """What makes up the batch of a step, in words."""
        trainer, data = self.trainer, self.data
        unit = "images" if getattr(data, "purified", None) is None else "pairs"
        return (
            f"One step: processes {trainer.world_size} x accumulated batches {trainer.accumulate_grad_batches} x "
            f"{unit} {self.batch() // trainer.world_size} = {self.effective_batch()} {unit}"
        )

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        self.require_numbers()
        checkpoint["configuration"], checkpoint["asked"] = self.configuration, self.asked
        clock = callback_of(self.trainer, Clock)
        hours = {} if clock is None else clock.named()
        if "loops" in checkpoint and validation_follows(self.trainer):  # one of weights only has none
            begin_with_validation(checkpoint["loops"]["fit_loop"])
        checkpoint["card"] = self.card() | {name: f"{value:.4g}" for name, value in hours.items()}

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        self.begun, self.asked_before = checkpoint.get("card") or {}, checkpoint.get("asked")
        loop = self.trainer.fit_loop.epoch_loop
        begun = checkpoint.get("loops", {}).get("fit_loop", {}).get(VALIDATION, {}).get("total")
        if begun == BEGUN and loop.max_steps > 0:
            self.beyond = 1  # or Lightning would not even begin where all steps are done, and leave the validation out
            loop.max_steps += self.beyond

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        self.keep_to_limit()
        progress = self.trainer.fit_loop.epoch_progress
        if progress.current.ready == progress.current.completed:
            # Lightning forgets to count an epoch as begun after resuming from a checkpoint of the last batch before
            # it; the next checkpoint would then restart that epoch.
            progress.increment_ready()
            progress.increment_started()
        reseed(run_seed(), self.current_epoch, batch_idx, self.global_rank)

    def on_train_batch_end(self, outputs: Any, *unused: object) -> None:
        finite = torch.isfinite(outputs["loss"])
        self.finite = finite if self.finite is None else self.finite & finite  # not read here: a GPU would wait

    def on_train_epoch_end(self) -> None:
        self.require_numbers()

    def require_numbers(self) -> None:
        """Refuse to go on from, or to keep, what a training came to that diverged.

        Raises:
            ValueError: If a loss was NaN or infinite.
        """
        if self.finite is not None and not self.finite:
            raise ValueError(
                f"the training diverged: by step {self.global_step} a loss was NaN or infinite; no weights are kept of "
                "it. Lower `model.lr`, set `trainer.gradient_clip_val`, or check the images"
            )

    def export_weights(self, module: nn.Module, path: str | None) -> None:
        """Write a module with its card at the end of a run that was not interrupted, once for all processes.

        Raises:
            ValueError: If the weights are no numbers, or another run has written the file in the meantime.
        """
        if not self.trainer.is_global_zero or self.trainer.interrupted:
            return
        if is_trial(self.trainer) or not self.global_step:
            self.print("No weights are exported: this was a trial run, or one without a step")
            return
        if path is None:
            kept = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            made = f"the training is complete, after {self.global_step} steps{f', checkpoint {kept}' if kept else ''}"
            self.print(ending(made, self.measured(self.card()), "`--model.export FILE` to have weights of their own"))
            return
        if bad := [name for name, tensor in module.state_dict().items() if not torch.isfinite(tensor).all()]:
            raise ValueError(f"{path} is not written: the training diverged, {bad[0]} is NaN or infinite")
        if self.configuration is not None and Path(path).exists():
            there = configuration_of(Path(path)) or {}
            if found := differences(there, self.configuration):
                raise ValueError(
                    f"{path} is not replaced: another run wrote it in the meantime ({found}); the last checkpoint "
                    "holds these weights, and `lit-pursamere weights convert` makes a file of it"
                )
        card = self.card()
        save_weights(module, path, card)
        self.print(self.ending(f"{self.global_step} steps trained, weights in {path}", card))

    def ending(self, made: str, card: Mapping[str, str]) -> str:
        """The last line of a training that has exported its weights."""
        return ending(made, self.measured(card), command(*self.next_verb, str(self.export)))

    def measured(self, card: Mapping[str, str]) -> str:
        """What the last validation found, as the card tells it."""
        return ", ".join(f"{name} {card[name]}" for name in self.headlines if name in card)

    def facts(self) -> dict[str, object]:
        """What a card says of this kind of training; None is left out."""
        return {}

    def card(self) -> dict[str, str]:
        """What a user of the weights must know, for the metadata of checkpoints and of the exported file.

        It tells the whole run: what was measured before an interruption as well, and, as `begun`, what was otherwise
        then. Not the hours: the same run again gives the same file.
        """
        data = self.data
        now = {name: f"{float(value):.6g}" for name, value in self.trainer.callback_metrics.items()}
        configuration = None if self.configuration is None else json.dumps(self.configuration, sort_keys=True)
        before = self.begun if self.begun.get("configuration") == configuration else {}
        measured = {name: text for name, text in {**before, **now}.items() if "/" in name}
        card = model_card(
            data=getattr(data, "name", "unknown"),
            steps=self.global_step,
            batch_size=getattr(data, "batch_size", None),
            processes=self.trainer.world_size,
            precision=self.trainer.precision,
            seed=run_seed(),
            configuration=configuration,
            **self.facts(),
            **{name: text for name, text in measured.items() if not name.startswith(Clock.PREFIX)},
        )
        parts = json.loads(self.begun.get("begun", "[]"))
        other = {name: text for name, text in self.begun.items() if "/" not in name and card.get(name) != text}
        if other.keys() - {"steps", "begun"}:
            parts.append({"steps": self.begun["steps"], **other})
        return card | ({"begun": json.dumps(parts)} if parts else {})
