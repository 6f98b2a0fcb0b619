"""A `fit` that is started again goes on where it stopped.

    the exported file is there           this configuration made it: the training is complete
    a checkpoint `last` is there         this configuration made it: the training continues from it
    another configuration made either    an error says what differs
    `--ckpt_path FILE`                   continues from that checkpoint; where another configuration made it, a new
                                         training starts from there, which needs names of its own

What is compared is all that decides the weights: settings, seed, images (a digest of pixels and labels), and the
checkpoint from which a training started.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import NoneType
from typing import Any

from packaging.version import Version
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from lit_pursamere.data.training import share
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.atomic import remove_leftovers
from lit_pursamere.store.manifest import differences
from lit_pursamere.tasks.deciding import configuration_of, deciding
from lit_pursamere.tasks.training import Training, WholeCheckpoints, is_trial
from lit_pursamere.weights import sha256
from lit_pursamere.weights.files import printable
from lit_pursamere.weights.pickles import NeedsCode, read_pickle

__all__ = ["COMPLETE", "CheckpointsAreData", "kept_to_one", "placed", "read_checkpoint", "stopped_at"]

COMPLETE = "complete"
HPC = "hpc_ckpt_*.ckpt"
KINDS: dict[str, tuple[type, ...]] = {  # of what a checkpoint holds
    "state_dict": (dict,), "loops": (dict,), "callbacks": (dict,), "train_accuracy": (dict,), "epoch": (int,),
    "global_step": (int,), "optimizer_states": (list,), "lr_schedulers": (list,), "card": (dict, NoneType),
    "configuration": (dict, NoneType), "asked": (dict, NoneType),
}  # fmt: skip
STATES = ("loops", "optimizer_states", "lr_schedulers")  # without which there is nothing to continue
OTHERWISE = (
    "the same settings continue it. Remove it, or choose names of its own for another training: `model.export`, and "
    "the folder for the logs; `--ckpt_path CHECKPOINT` then starts from weights that are there"
)


def placed(settings: dict[str, Any], task: LightningModule) -> dict[str, Any]:
    """Arguments of a trainer, with places of the run's own for what was given none; else they were the current folder.

    Logs are in `logs` beside what the run makes. A training keeps its last checkpoint, so that it can be continued.
    """
    training, place = isinstance(task, Training), getattr(task, "output", None)
    if isinstance(task, Training):
        place = "runs/fit" if task.export is None else Path(task.export).with_suffix("")
    home = settings.get("default_root_dir") or place
    if home is None:
        return settings
    own = {"default_root_dir": home}
    if settings.get("logger") in (None, True):
        logs = Path(home if training else place or home)
        own["logger"] = TensorBoardLogger(logs.parent, logs.name, "logs", default_hp_metric=False)
    callbacks = settings.get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    if training and settings.get("enable_checkpointing") is not False:
        if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
            callbacks = [*callbacks, ModelCheckpoint(filename="last", enable_version_counter=False)]
        own["callbacks"] = callbacks
    return {**settings, **own}


@contextmanager
def kept_to_one(trainer: Trainer, task: LightningModule) -> Iterator[None]:
    """Keep other trainings from the checkpoints of this one; what killed ones left half written is removed.

    Raises:
        OSError: If another training writes there.
    """
    with ExitStack() as held:
        if isinstance(task, Training) and trainer.is_global_zero and not is_trial(trainer):
            for folder in sorted(checkpoint_folders(trainer)):
                held.enter_context(ResultsFolder(folder))
            remove_leftovers(Path(trainer.default_root_dir), HPC)
            if task.export is not None:
                remove_leftovers(Path(task.export).parent, Path(task.export).name)
        yield


def stopped_at(trainer: Trainer, task: LightningModule, data: Any, config: dict, named: str | None) -> str | None:
    """Where the training stopped that a command line is about; its task is told its `configuration`.

    Args:
        trainer: Its trainer, which knows where checkpoints are.
        task: What is trained.
        data: Its data module.
        config: The whole configuration, as plain values.
        named: What `--ckpt_path` says.

    Returns:
        The checkpoint to continue from, COMPLETE, or None: it has not begun.

    Raises:
        FileNotFoundError: If there is no checkpoint of that name.
        ValueError: If another configuration made what is there, a file is damaged, or processes cannot share a batch.
    """
    if not isinstance(task, Training) or is_trial(trainer):
        return named
    share(data.batch_size, data.batch_size, trainer.world_size)
    export = None if task.export is None or not Path(task.export).exists() else Path(task.export)
    last = last_checkpoint(trainer)
    if named == "hpc" and last is None and export is None:
        raise FileNotFoundError(
            f"--ckpt_path hpc: no job left a {HPC} in {trainer.default_root_dir}; leave that option out to begin there"
        )
    named = None if named in ("last", "hpc") else named
    task.configuration = wanted = deciding(config)
    if not (export or last or named):
        return None
    if trainer.local_rank == 0:
        data.prepare_data()
    data.setup("fit")
    wanted["images"] = data.trained_on()
    there = None if named is None else configuration_in(Path(named))
    if named is not None:
        wanted["start"] = start_of(Path(named), there, wanted)
    if export is not None:
        require_same(export, configuration_of(export), wanted)
        return COMPLETE
    if last is not None:
        require_same(last, configuration_in(last), wanted)
    continues = named is not None and there is not None and not differences(there, wanted)
    return named if continues or last is None else str(last)


def checkpoint_folders(trainer: Trainer) -> set[Path]:
    """Where a training keeps its checkpoints."""
    logs = Path(trainer.log_dir or trainer.default_root_dir)
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
    return {Path(callback.dirpath or logs / "checkpoints") for callback in callbacks}


def last_checkpoint(trainer: Trainer) -> Path | None:
    """The newest checkpoint called `last` of a training, or of those that SLURM asked for before it stopped a job."""
    found = [file for folder in checkpoint_folders(trainer) for file in folder.glob("last*.ckpt")]
    found += Path(trainer.default_root_dir).glob(HPC)
    return max(found, key=lambda file: file.stat().st_mtime, default=None)


def configuration_in(file: Path) -> dict | None:
    """The configuration that made a checkpoint; errors as `read_checkpoint` raises them, and if it has only weights."""
    content = read_checkpoint(file)
    if absent := [name for name in STATES if name not in content]:
        raise ValueError(
            f"{file} holds no {', '.join(absent)}: a training cannot continue from weights alone, which go to the "
            "`checkpoint` argument of the network"
        )
    return content.get("configuration")


def start_of(file: Path, there: dict | None, wanted: dict) -> str | None:
    """From what checkpoint a training started that goes on from a file: from it, if another configuration made it."""
    if there is not None and not differences(there, {**wanted, "start": there.get("start")}):
        return there.get("start")
    return f"sha256 {sha256(file)[:16]}"


def require_same(file: Path, there: dict | None, now: dict) -> None:
    """Raise ValueError unless a file was made with this configuration; the message names what differs."""
    if there is None:
        raise ValueError(f"{file} does not say what configuration made it; {OTHERWISE}")
    if found := differences(there, now):
        raise ValueError(f"{file} was made with another configuration ({found}); {OTHERWISE}")


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
        if "pytorch-lightning_version" not in content:  # Lightning reads that, and migrates by it
            raise ValueError("it does not say of which version of Lightning it is")
        Version(str(content["pytorch-lightning_version"]))
        for name, value in content.items():
            if not isinstance(value, KINDS.get(name, (object,))):
                raise ValueError(f"{name} in it is a {type(value).__name__}")
            if name in STATES and isinstance(value, list) and not all(isinstance(state, dict) for state in value):
                raise ValueError(f"{name} in it are no states")
        if odd := [name for name, value in content["state_dict"].items() if not isinstance(value, Tensor)]:
            raise ValueError(f"{odd[0]} in it is no tensor")
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
