"""The configuration of a run, whole, in the run's folder: `lit-pursamere test --config RUN/config.yaml` repeats it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.cli import SaveConfigCallback

from lit_pursamere.store.atomic import write_whole
from lit_pursamere.tasks.tracking import log_outcome, log_settings, plain_settings
from lit_pursamere.tasks.training import Training, is_trial

__all__ = ["SaveConfig"]


class SaveConfig(SaveConfigCallback):
    """Tells trackers the configuration; writes it beside the logs, and into the `output` of models that have one.

    Such a model without a logger has it there alone, and not in the folder where the command was given. Not before the
    model has accepted the folder: a run that is refused, because the folder holds results of another configuration,
    must not replace the configuration that these came from.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "validate" and isinstance(pl_module, Training):  # which keeps nothing
            return
        logs, output = trainer.log_dir, getattr(pl_module, "output", None)
        if output is not None and not (logs and trainer.loggers and not within(Path(logs), Path(output))):
            self.save_to_log_dir = False
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the trackers of the run."""
        if not is_trial(trainer):
            log_settings(trainer, self.settings())

    def settings(self) -> dict[str, Any]:
        """The configuration as hyper-parameters."""
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return plain_settings({name: config.get(name) for name in ("seed_everything", "model", "data", "trainer")})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell_outcome(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tell_outcome(trainer, pl_module)

    def _tell_outcome(self, trainer: Trainer, pl_module: Any) -> None:
        found = trainer.callback_metrics
        names = [name for name in getattr(pl_module, "headlines", ()) if name in found]
        if trainer.is_global_zero and not is_trial(trainer):
            log_outcome(trainer, self.settings(), {name: float(found[name]) for name in names})

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_to_output(trainer, pl_module)

    def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_to_output(trainer, pl_module)

    def _save_to_output(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or getattr(pl_module, "output", None) is None:
            return
        file, config = Path(pl_module.output) / self.config_filename, self.config.clone()
        for name in ("shard", "walk"):  # of the command, and not of the run
            config.pop(name, None)
        write_whole(file, self.parser.dump(config, skip_none=False, skip_validation=True).encode())


def within(path: Path, folder: Path) -> bool:
    """Whether a path is that of a folder, or of something in it."""
    return path.resolve().is_relative_to(folder.resolve())
