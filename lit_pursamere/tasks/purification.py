"""Purify a data set once and keep the result: `predict` writes a `PurifiedSet`.

Reference: PurSAMERE, section 4: SAM off and rho_pur 3 for the training set of CIFAR-10.
"""

from __future__ import annotations

from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from lit_pursamere.data import PurifiedSet
from lit_pursamere.purifiers import Purifier
from lit_pursamere.weights import state_digest

__all__ = ["LitPurification"]


class LitPurification(pl.LightningModule):
    """Writes purified images to disk, batch by batch; a second run continues where the first one stopped.

    Args:
        purifier: The purifier.
        output: Folder of the purified set.
        dtype: `float16`, or `uint8` at half the size with a rounding of up to 1/510.
    """

    def __init__(self, purifier: Purifier, output: str, dtype: Literal["float16", "uint8"] = "float16") -> None:
        super().__init__()
        self.purifier, self.output, self.storage = purifier, output, dtype
        self.set: PurifiedSet | None = None

    def on_predict_start(self) -> None:
        data = self.trainer.datamodule
        split = "test" if data.evaluate == "test" else "train"
        shape = (len(data.sources[split]), data.channels, data.image_size, data.image_size)
        manifest = {
            "data": data.name,
            "split": split,
            "purifier": str(self.purifier),
            "weights": state_digest(self.purifier),
        }
        if self.trainer.is_global_zero:
            self.set = PurifiedSet.create(self.output, shape, manifest, self.storage)
        self.trainer.strategy.barrier("purified set created")
        if self.set is None:
            self.set = PurifiedSet.create(self.output, shape, manifest, self.storage)

    def predict_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        if self.trainer.received_sigterm:  # Lightning only notes the signal, and would run on to the end
            raise SystemExit("stopped by SIGTERM; the same command continues")
        x, _, index = batch
        todo = set(self.set.missing(index.tolist()))
        keep = torch.tensor([i for i, image in enumerate(index.tolist()) if image in todo], dtype=torch.long)
        if len(keep):
            self.set.write(index[keep].tolist(), self.purifier(x[keep.to(x.device)]))

    def on_predict_end(self) -> None:
        self.print(f"{int(self.set.done.sum())} of {len(self.set)} images purified in {self.output}")
