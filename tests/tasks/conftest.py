"""What resumed trainings are compared by."""

from __future__ import annotations

from pathlib import Path

import pytest
from pytorch_lightning.callbacks import ModelCheckpoint


class EveryStep(ModelCheckpoint):
    """Keeps a checkpoint of every step in a folder, `step=N.ckpt`, and its loss by the number of steps before it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False)
        self.losses: dict[int, float] = {}

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        self.losses[trainer.global_step - 1] = outputs["loss"].item()
        super().on_train_batch_end(trainer, task, outputs, batch, batch_idx)


@pytest.fixture
def every_step() -> type[EveryStep]:
    return EveryStep
