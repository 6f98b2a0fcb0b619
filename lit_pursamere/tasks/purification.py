"""Purify a data set once and keep the result: `predict` writes a `PurifiedSet`.

    part k = batch k, by process k mod (number of processes):  skip it if it is there, else purify and write it
    progress: whatever all processes, on this machine or others, have written

Reference: PurSAMERE, section 4: SAM off and rho_pur 3 for the training set of CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from lit_pursamere.data import PurifiedSet
from lit_pursamere.data.purified_checks import probe
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.ending import command, ending
from lit_pursamere.progress import Progress, Watch
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import Knowledge, Recipe, complete
from lit_pursamere.seeding import reseed, run_seed
from lit_pursamere.sharding import Shard
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.atomic import remove_leftovers
from lit_pursamere.store.manifest import settings_of
from lit_pursamere.tasks.folder_task import FolderTask
from lit_pursamere.weights import state_digest

__all__ = ["LitPurification"]


class SetFolder(ResultsFolder):
    """The folder of a purified set, which states by itself what it belongs to.

    Args:
        folder: The folder.
        create: Creates the set there, or continues it.
        rank: Number of this process.
        shard: Which part of the job the command does that this process belongs to.
    """

    set: PurifiedSet

    def __init__(self, folder: Path, create: Callable[[], PurifiedSet], rank: int, shard: Shard) -> None:
        self.create = create
        super().__init__(folder, None, rank, shard)

    def _state(self) -> None:
        self.create()

    def _load(self) -> None:
        self.set = self.create()


class LitPurification(FolderTask):
    """Writes purified images to disk, batch by batch; a second run continues where the first one stopped.

    The result does not depend on how many processes make it, nor on how often they are stopped: what a batch holds is
    fixed by `data.eval_batch_size`, and a purifier that draws fresh noise draws it from a seed of the batch.

    Args:
        purifier: The purifier; one that lacks its score model gets `score_model`.
        output: Folder of the purified set.
        dtype: `float16`, or `uint8` at half the size with a rounding of up to 1/510.
        score_model: Given to the purifier, unless it brings its own.
        classifier: What guides purifiers that ask the classifier of their defence (COUP).
        noise: What is known of the purifier's noise, see `Purifier.under`. None: as in its paper.
    """

    set: PurifiedSet  # from `open` on

    def __init__(
        self,
        purifier: Purifier | Recipe,
        output: str,
        dtype: Literal["float16", "uint8"] = "float16",
        score_model: ScoreModel | None = None,
        classifier: nn.Module | None = None,
        noise: Knowledge | None = None,
    ) -> None:
        super().__init__(output)
        self.purifier = complete(purifier, score_model, noise, classifier)
        self.storage = dtype
        self.watch: Watch | None = None

    def on_predict_start(self) -> None:
        self.open_in_turn()
        if self.visible:
            self.watch = Watch(Progress("purify", "image", len(self.set)), self.set.count)

    def open(self) -> None:
        """Open the folder, and create or continue the set in it."""
        data = self.data
        split: Literal["train", "test"] = "test" if data.evaluate == "test" else "train"
        source, indices = data.sources[split], data.indices(data.evaluate)
        manifest = {
            "data": data.name,
            "split": split,
            "evaluate": data.evaluate,
            "source": {**data.identity(split, indices), "count": len(source), "means": probe(source, indices)},
            "purifier": settings_of(self.purifier),
            "weights": state_digest(self.purifier),
            "precision": str(self.trainer.precision),
            "seed": run_seed(),
        }
        shape = (data.channels, data.image_size, data.image_size)
        made = partial(PurifiedSet.create, self.output, indices, shape, manifest, self.storage, data.eval_batch_size)
        self.folder = opened = SetFolder(self.output, made, self.number, data.shard)
        self.set = opened.set

    def predict_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x, indices = batch[0], batch[2].tolist()
        number = self.set.number(indices[0])
        if indices != self.set.part(number).tolist():
            raise RuntimeError(
                "the loader deals other batches than the set has parts: use Trainer(use_distributed_sampler=False), as "
                "the command line does, and a loader with a ShardSampler"
            )
        if not self.set.has(number):
            reseed(run_seed(), number)
            self.set.write(number, self.purifier(x))

    def on_predict_end(self) -> None:
        self.trainer.strategy.barrier("parts written")
        self._end_watch()
        if self.trainer.is_global_zero:
            self.print(self.ending())

    def ending(self) -> str:
        """What was made, by all shards together, and what comes next."""
        split, output = self.data.evaluate, str(self.output)
        made = f"{self.set.count()} of {len(self.set)} {split} images purified in {output}"
        inspect = command("purified", "inspect", output)
        if self.data.shard:
            if missing := self.set.missing():
                return self.left_to_others(missing, made, inspect)
            remove_leftovers(self.output, "part-*")  # of shards that were killed on other machines
        trains = command("fit", "--config", "FILE", "--data.purified", output)
        return ending(made, then=trains if split == "train" else inspect)

    def close(self) -> None:
        self._end_watch()
        super().close()

    def _end_watch(self) -> None:
        if self.watch is not None:
            self.watch.close()
            self.watch = None
