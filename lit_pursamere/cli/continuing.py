"""A `fit` that is started again goes on where it stopped, if `model.export` says which file it is to make.

    the file is there                    this configuration made it: the training is complete
    a checkpoint `last` is there         this configuration made it: the training continues from it
    another configuration made either    an error says what differs

`--ckpt_path` says otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors import safe_open

from lit_pursamere.cli.saved_config import SaveConfig
from lit_pursamere.store.manifest import differences
from lit_pursamere.tasks.training import Training, WholeCheckpoints, callback_of
from lit_pursamere.weights.files import printable
from lit_pursamere.weights.pickles import NeedsCode, read_pickle

__all__ = ["COMPLETE", "CheckpointsAreData", "read_checkpoint", "stopped_at"]

COMPLETE = "complete"


def stopped_at(trainer: Trainer, task: LightningModule) -> str | None:
    """Where the training stopped that a command line is about.

    Args:
        trainer: Its trainer, which knows where checkpoints are.
        task: What is trained.

    Returns:
        The last checkpoint, COMPLETE, or None: it has not begun, or makes no file by which that would be known.

    Raises:
        ValueError: If another configuration made what is there, or a file is damaged.
    """
    saved = callback_of(trainer, SaveConfig)
    if saved is None or not isinstance(task, Training) or task.export is None:
        return None
    export, last, wanted = Path(task.export), last_checkpoint(trainer), saved.deciding()
    if export.is_file():
        with safe_open(export, "pt") as file:
            require_same(export, json.loads((file.metadata() or {}).get("configuration", "null")), wanted)
        return COMPLETE
    if last is None:
        return None
    require_same(last, read_checkpoint(last).get("configuration"), wanted)
    return str(last)


def last_checkpoint(trainer: Trainer) -> Path | None:
    """The newest checkpoint called `last` of a training."""
    logs = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    folders = {Path(callback.dirpath or logs) for callback in callbacks}
    found = [file for folder in folders for file in folder.glob("last*.ckpt")]
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def require_same(file: Path, there: dict | None, now: dict) -> None:
    """Raise ValueError unless a file was made with this configuration; the message names what differs."""
    if there is None:
        raise ValueError(
            f"{file} does not say what configuration made it; remove it, or choose another `model.export` and another "
            "folder for the logs (--ckpt_path continues from any checkpoint)"
        )
    if found := differences(there, json.loads(json.dumps(now))):
        raise ValueError(
            f"{file} was made with another configuration ({found}); remove it, or choose another `model.export` and "
            "another folder for the logs"
        )


class CheckpointsAreData(WholeCheckpoints):
    """Reads checkpoints for a trainer as `read_checkpoint` does, whatever `weights_only` or the environment say."""

    def load_checkpoint(self, path: str | Path, map_location: object = None, weights_only: object = None) -> dict:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict:
    """Read a Lightning checkpoint, of which nothing is run.

    Args:
        path: What `--ckpt_path` says.

    Returns:
        Its content: tensors on the CPU, and plain containers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, no checkpoint, or holds more than data.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint at {path} (looked from {Path.cwd()}); see `checkpoints/` of the run's logs"
        )
    try:
        with open(path, "rb") as file:
            content = read_pickle(file, objects=False)
        if not isinstance(content, dict) or "state_dict" not in content:
            raise ValueError("it has no `state_dict`")
    except NeedsCode as error:
        raise ValueError(
            f"{path} is not read, since a checkpoint is data and {printable(str(error))}; nothing in it was run. Take "
            "a checkpoint that this program wrote; weights alone go to the `checkpoint` argument of the network"
        ) from error
    except Exception as error:  # a damaged or hostile file can provoke any error; each becomes the same kind of line
        why = printable(str(error) or type(error).__name__)
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a whole Lightning checkpoint: {why}. `--ckpt_path` "
            "continues a training run; weights alone go to the `checkpoint` argument of the network"
        ) from error
    return content
