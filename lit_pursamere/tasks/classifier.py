"""Train a classifier on clean images and their purified twins.

Reference: PurSAMERE, eq. (17); SGD recipe of Zagoruyko & Komodakis (2016).

    loss = E[ 1/2 CE(h(x), y) + 1/2 CE(h(x_pur), y) ]      (plain cross-entropy when there are no twins)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from lit_pursamere.tasks.training import Training

__all__ = ["LitClassifier"]


class LitClassifier(Training):
    """Classifier training. A batch (B, 2, C, H, W) of pairs counts both halves equally in one batch of 2 B images.

    Args:
        classifier: Network from images (B, C, H, W) in [0, 1] to logits (B, K).
        lr: SGD's learning rate.
        momentum: SGD's momentum.
        weight_decay: L2 penalty on all weights.
        nesterov: Whether the momentum is Nesterov's.
        milestones: Epochs after which the learning rate is multiplied by gamma.
        gamma: Factor of the learning rate at the milestones.
        export: Where to write the weights as safetensors when training has finished (None: nowhere).

    Defaults: 200 epochs at batch size 128 (pairs), learning rate 0.1 times 0.2 after epochs 60, 120 and 160.
    """

    def __init__(
        self,
        classifier: nn.Module,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        milestones: list[int] = [60, 120, 160],  # noqa: B006 (never changed)
        gamma: float = 0.2,
        export: str | None = None,
    ) -> None:
        super().__init__()
        if lr <= 0 or not 0 <= momentum < 1 or weight_decay < 0 or not 0 < gamma <= 1:
            raise ValueError(
                "LitClassifier needs lr > 0, momentum in [0, 1), weight_decay >= 0 and gamma in (0, 1]; "
                f"got {lr}, {momentum}, {weight_decay}, {gamma}"
            )
        self.classifier = classifier
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov
        self.milestones, self.gamma, self.export = list(milestones), gamma, export
        self.accuracy = nn.ModuleDict({"clean": MeanMetric(), "purified": MeanMetric()})

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(
            self.classifier.parameters(), self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, self.milestones, self.gamma)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, _ = batch
        if x.ndim == 5:  # one batch of both halves, so that batch normalisation sees the mixture
            y = y.repeat_interleave(x.shape[1])
            x = x.flatten(0, 1)
        logits = self.classifier(x)
        loss = F.cross_entropy(logits, y)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(y))
        self.log("train/accuracy", (logits.argmax(1) == y).float().mean(), on_epoch=True, on_step=False,
                 batch_size=len(y))  # fmt: skip
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x, y, _ = batch
        halves = {"clean": x} if x.ndim == 4 else {"clean": x[:, 0], "purified": x[:, 1]}
        for name, images in halves.items():
            self.accuracy[name].update((self.classifier(images).argmax(1) == y).float())
            self.log(f"val/accuracy_{name}", self.accuracy[name], prog_bar=True)

    def on_fit_end(self) -> None:
        self.export_weights(
            self.classifier,
            self.export,
            purified=getattr(self.trainer.datamodule, "purified", None),
            classifier=type(self.classifier).__name__,
            loss="cross-entropy, half on clean and half on purified images where there are pairs",
            lr=self.lr,
        )
