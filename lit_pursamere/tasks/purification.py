"""Purify a data set once and keep the result: `predict` writes a `PurifiedSet`.

    part k = batch k, by process k mod (number of processes):  skip it if it is there, else purify and write it
    progress: whatever all processes, on this machine or others, have written

Reference: PurSAMERE, section 4: SAM off and rho_pur 3 for the training set of CIFAR-10.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
from torch import Tensor, nn

from lit_pursamere.data import PurifiedSet
from lit_pursamere.data.purified_checks import probe
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.progress import Progress, Watch
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import Knowledge, Recipe, complete
from lit_pursamere.seeding import reseed, run_seed
from lit_pursamere.store.atomic import remove_leftovers
from lit_pursamere.store.locks import FolderLock
from lit_pursamere.store.manifest import settings_of
from lit_pursamere.tasks.opening import open_in_turn
from lit_pursamere.weights import state_digest

__all__ = ["LitPurification"]


class LitPurification(pl.LightningModule):
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

    def __init__(
        self,
        purifier: Purifier | Recipe,
        output: str,
        dtype: Literal["float16", "uint8"] = "float16",
        score_model: ScoreModel | None = None,
        classifier: nn.Module | None = None,
        noise: Knowledge | None = None,
    ) -> None:
        super().__init__()
        purifier = complete(purifier, score_model, noise)
        self.purifier = purifier if classifier is None else purifier.in_front_of(classifier)
        self.output, self.storage = output, dtype
        self.set: PurifiedSet | None = None
        self.lock: FolderLock | None = None
        self.watch: Watch | None = None

    def setup(self, stage: str) -> None:
        bar = self.trainer.progress_bar_callback
        self.visible = bar is not None and self.trainer.is_global_zero
        if self.visible and stage == "predict":  # Lightning's bar knows the batches of one process only
            bar.disable()

    def on_predict_start(self) -> None:
        open_in_turn(self, self.output, self._open)
        if self.visible:
            self.watch = Watch(Progress("purify", "image", len(self.set)), self.set.count)

    def _open(self) -> None:
        """Lock the folder, and create or continue the set."""
        data = self.trainer.datamodule
        split = "test" if data.evaluate == "test" else "train"
        source, indices = data.sources[split], data.indices(data.evaluate)
        manifest = {
            "data": data.name,
            "split": split,
            "source": {"count": len(source), "means": probe(source, indices)},
            "purifier": settings_of(self.purifier),
            "weights": state_digest(self.purifier),
            "precision": str(self.trainer.precision),
            "seed": run_seed(),
        }
        shape = (data.channels, data.image_size, data.image_size)
        self.lock = FolderLock(self.output, self.trainer.global_rank)
        try:
            if self.trainer.is_global_zero:
                remove_leftovers(Path(self.output))
            self.set = PurifiedSet.create(self.output, indices, shape, manifest, self.storage, data.eval_batch_size)
        except BaseException:
            self.lock.release()
            raise

    def predict_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        try:
            self._purify(batch[0], batch[2].tolist())
        except BaseException:
            self._release()  # whoever catches this may want to continue in the same process
            raise

    def _purify(self, x: Tensor, indices: list[int]) -> None:
        if self.trainer.received_sigterm:  # Lightning only notes the signal, and would run on to the end
            raise SystemExit("stopped by SIGTERM; the same command continues")
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
        self._release()
        self.print(f"{self.set.count()} of {len(self.set)} images purified in {self.output}")

    def _release(self) -> None:
        if self.visible:
            self.watch.close()
            self.trainer.progress_bar_callback.enable()
        self.lock.release()
