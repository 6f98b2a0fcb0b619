"""What every task shares that writes to a folder of results and continues there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from lit_pursamere.data import ImageDataModule, ShardSampler
from lit_pursamere.ending import ending
from lit_pursamere.stopping import left_to_first
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.provenance import note_start
from lit_pursamere.tasks.stopping import Stopping

__all__ = ["FolderTask", "require_precision"]

PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")  # in which pixels are as exact as float32 at least


def require_precision(trainer: pl.Trainer, rounded: str = "pixels, and with them the budgets of attacks") -> None:
    """Refuse precisions in which pixels and weights are rounded: no budget of a few 1/255 would hold.

    Args:
        trainer: Whose precision.
        rounded: What would be rounded, and so not hold.

    Raises:
        ValueError: If it is one of these.
    """
    if trainer.precision not in PRECISIONS:
        raise ValueError(
            f"--trainer.precision {trainer.precision} rounds {rounded}; take one of {', '.join(PRECISIONS)} (mixed: "
            "half precision in networks alone)"
        )


class Closing(pl.Callback):
    """Closes a task's folder when its run ends, or fails: whoever catches that may continue in the same process."""

    def on_exception(self, trainer: pl.Trainer, pl_module: Any, exception: BaseException) -> None:
        pl_module.close()

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        pl_module.close()


class FolderTask(pl.LightningModule, ABC):
    """Base of the tasks that write to a folder of results, and show their own progress in place of Lightning's bar.

    Args:
        output: The folder.
    """

    def __init__(self, output: str | Path) -> None:
        super().__init__()
        if not str(output or ""):
            raise ValueError(f"{type(self).__name__} needs an output, a folder; got {output!r}")
        self.output = Path(output)
        self.folder: ResultsFolder | None = None
        self.visible = False  # whether progress is shown, by this process

    @property
    def data(self) -> ImageDataModule:
        """The data of the run."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def number(self) -> int:
        """Number of this process among all that write to the folder."""
        return self.data.shard.place(self.trainer.global_rank, self.trainer.world_size)[0]

    @abstractmethod
    def open(self) -> None:
        """Open `output` for this process, as `folder`.

        Raises:
            ValueError: If it may not be opened.
            OSError: If it cannot.
        """

    def configure_callbacks(self) -> list[pl.Callback]:
        return [Closing(), Stopping()]

    def setup(self, stage: str) -> None:
        require_precision(self.trainer)
        bar = self.trainer.progress_bar_callback
        self.visible = bar is not None and self.trainer.is_global_zero
        if bar is not None and self.visible:  # Lightning's bar counts batches, and those of one process only
            bar.disable()

    def require_whole_test(self) -> int:
        """How many images this process is to test, if every image is tested once, and gradients can be taken.

        Raises:
            RuntimeError: If one of them does not hold.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError("attacks need gradients: use Trainer(inference_mode=False), as the command line does")
        loader: Any = self.trainer.test_dataloaders
        if (self.trainer.world_size > 1 or self.data.shard) and not isinstance(loader.sampler, ShardSampler):
            raise RuntimeError(
                "the test loader would repeat images to even out the processes, which falsifies accuracies: use "
                "Trainer(use_distributed_sampler=False), as the command line does, and a loader with a ShardSampler"
            )
        return int(min(len(loader.sampler), self.trainer.num_test_batches[0] * self.data.eval_batch_size))

    def open_in_turn(self) -> None:
        """Open the folder on every process, the first one first: it writes the manifest that the others compare with.

        What the run starts with is noted in the folder.

        Raises:
            ValueError: If the first process may not open it; the others then end without a word.
            OSError: If it cannot.
        """
        refused: Exception | None = None
        first = self.trainer.is_global_zero
        if first:
            try:
                self.open()
                note_start(self.output, self.device, self.trainer.world_size)
            except (ValueError, OSError) as error:
                refused = error
        if self.trainer.strategy.broadcast(refused is not None):
            raise refused or left_to_first()  # one process complains for all
        if not first:
            self.open()

    def left_to_others(self, chunks: Sequence[int], made: str, then: str) -> str:
        """The last line of a shard that is done before all others are.

        Args:
            chunks: Numbers of the chunks of images that are not done.
            made: What is done by all together.
            then: The command that comes next.
        """
        shard = self.data.shard
        return ending(f"shard {shard} is done; {made}; left: shards {shard.owners(chunks)}", then=then)

    def close(self) -> None:
        """Let other runs into the folder, and give Lightning its bar back."""
        if self.folder is not None:
            self.folder.release()
        if self.visible and (bar := self.trainer.progress_bar_callback) is not None:
            bar.enable()
