"""What every training shares: steps that can be repeated exactly after an interruption, and a card for the result."""

from __future__ import annotations

import pytorch_lightning as pl
from torch import Tensor, nn

from lit_pursamere.seeding import reseed, run_seed
from lit_pursamere.weights import model_card, save_weights

__all__ = ["Training"]


class Training(pl.LightningModule):
    """Base of the training tasks.

    Every step starts from its own seed, made of the run's seed, the epoch, the batch and the process, so a run that was
    stopped and continued from a checkpoint repeats one that was not: same losses, same weights. That needs a loader
    that remembers its place, which the one of resident images does.
    """

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        progress = self.trainer.fit_loop.epoch_progress
        if progress.current.ready == progress.current.completed:
            # Lightning forgets to count an epoch as begun after resuming from a checkpoint of the last batch before
            # it; the next checkpoint would then restart that epoch.
            progress.increment_ready()
            progress.increment_started()
        reseed(run_seed(), self.current_epoch, batch_idx, self.global_rank)

    def export_weights(self, module: nn.Module, path: str | None, **facts: object) -> None:
        """Write a module with its card at the end of a run that was not interrupted, once for all processes."""
        if path is not None and self.trainer.is_global_zero and not self.trainer.interrupted:
            save_weights(module, path, self.card(**facts))

    def card(self, **facts: object) -> dict[str, str]:
        """What a user of the weights must know, for the metadata of the exported file."""
        data = self.trainer.datamodule
        return model_card(
            data=getattr(data, "name", "unknown"),
            steps=self.global_step,
            batch_size=getattr(data, "batch_size", None),
            processes=self.trainer.world_size,
            precision=self.trainer.precision,
            seed=run_seed(),
            **facts,
            **{name: f"{float(value):.6g}" for name, value in self.trainer.callback_metrics.items()},
        )
