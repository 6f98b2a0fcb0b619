"""The configuration of a run, whole, in the run's folder: `lit-pursamere test --config RUN/config.yaml` repeats it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from lit_pursamere.store.atomic import write_whole
from lit_pursamere.tasks.training import Training

__all__ = ["SaveConfig"]


class SaveConfig(SaveConfigCallback):
    """Writes config.yaml beside the logs, as Lightning does, and into the `output` folder of models that have one.

    Such a model without a logger has it there alone, and not in the folder where the command was given. Not before the
    model has accepted the folder: a run that is refused, because the folder holds results of another configuration,
    must not replace the configuration that these came from.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "validate" and isinstance(pl_module, Training):  # which keeps nothing
            return
        logs, output = trainer.log_dir, getattr(pl_module, "output", None)
        if output is not None and not (logs and trainer.loggers and Path(logs).resolve() != Path(output).resolve()):
            self.save_to_log_dir = False
        super().setup(trainer, pl_module, stage)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_to_output(trainer, pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_to_output(trainer, pl_module)

    def _save_to_output(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or getattr(pl_module, "output", None) is None:
            return
        file = Path(pl_module.output) / self.config_filename
        write_whole(file, self.parser.dump(self.config, skip_none=False).encode())
