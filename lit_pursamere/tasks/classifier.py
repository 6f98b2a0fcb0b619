"""Train a classifier: on images, on images and their purified twins, or on what an attack makes of them.

References: PurSAMERE, eq. (17); Madry et al. (2018); SGD recipe of Zagoruyko & Komodakis (2016).

    loss = E[ 1/2 CE(h(x), y) + 1/2 CE(h(x_pur), y) ]      (plain cross-entropy when there are no twins)

With an adversary or a purifier it is any mixture of parts, see `adversarial`.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from lit_pursamere.attacks import Attack
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.diffusion.image_noise import combine, image_keys
from lit_pursamere.purifiers import Identity, Purifier
from lit_pursamere.purifiers.base import Recipe, complete
from lit_pursamere.seeding import run_seed
from lit_pursamere.tasks.adversarial import Mixture, attacked, check_attack, mean_cross_entropy, purified
from lit_pursamere.tasks.folder_task import require_precision
from lit_pursamere.tasks.optimisation import Asked
from lit_pursamere.tasks.training import ExponentialMovingAverage, Training, cosine, rise
from lit_pursamere.weights import inspect_weights, load_weights, state_digest
from lit_pursamere.weights.settings import settings_of

__all__ = ["LitClassifier"]


class LitClassifier(Training):
    """Classifier training. A batch (B, 2, C, H, W) of pairs counts both halves equally in one batch of 2 B images.

    Args:
        classifier: Network from images (B, C, H, W) in [0, 1] to logits (B, K).
        checkpoint: Weights to start from, in place of those that the network has: a weight file, or a name, see
            `weights.load_weights`. A checkpoint of this very training goes on all the same.
        lr: SGD's learning rate.
        momentum: SGD's momentum.
        weight_decay: SGD's L2 penalty on all weights.
        nesterov: Whether SGD's momentum is Nesterov's.
        optimizer: Another optimiser, of any class, which has settings of its own: in a configuration a class_path and
            init_args, from Python a function of the parameters. None: SGD.
        scheduler: Another scheduler of the learning rate, which has settings of its own. It takes a step after every
            epoch; ReduceLROnPlateau after every validation, by `val/loss`, or by what Lightning's own one monitors.
            None: as `schedule` and `warmup` say.
        schedule: `milestones`, or `cosine` down to 0 over `max_epochs` of the trainer; both change after every epoch.
        milestones: Epochs after which the learning rate is multiplied by gamma.
        gamma: Factor of the learning rate at the milestones.
        warmup: Epochs over which the learning rate rises linearly from 0.
        lr_reference_batch: Batch that the learning rate is meant for, in pairs (images without pairs). It is then
            lr * (accumulated batches * batch_size) / lr_reference_batch, the linear rule of Goyal et al. (2017), which
            wants a warm-up of about five epochs. None: `lr` as it is.
        ema_decay: Decay per step of a moving average of weights and batch statistics, which is then what is validated
            and exported (None: no average).
        channels_last: Whether the network works in that memory format; changes results by rounding only.
        compile: Whether to compile the network with torch.compile: minutes at the start, for long runs on a GPU.
        adversary: Attack on training images, at every step anew: on the classifier alone (view `gray`), or on the whole
            defence through any view of `purifier`. The classifier meanwhile is frozen and in evaluation mode.
        purifier: Stands before the classifier in attacks, and makes purified images; it stays as it is. One that lacks
            its score model gets `score_model`.
        score_model: Given to the purifier, unless it brings its own.
        parts: What the loss is of, by weight, which sum to 1: `clean`, `purified` (the twins of pairs, else what the
            purifier makes of the images), `adversarial`, and `purified_adversarial`. None: with an adversary all of it
            adversarial, and purified where there is a purifier; without, half clean and half purified, or clean.
        attack: Attack on validation images, whose accuracy is logged as well: without a purifier gray-box, on the
            purified ones of pairs; with one on the whole defence, through any of its views.
        attacked_images: How many of them are attacked at every validation, over all processes, or purified by the
            purifier where there are no pairs.
        export: Where to write the weights as safetensors when training has finished (None: nowhere).

    Defaults: 200 epochs at batch size 128 (pairs), learning rate 0.1 times 0.2 after epochs 60, 120 and 160. Batch
    normalisation sees the pairs of its own process; `Trainer(sync_batchnorm=True)` makes it see those of all (on GPUs
    only: torch has no such layer for the CPU).
    """

    headlines = ("val/accuracy_clean", "val/accuracy_purified", "val/accuracy_attacked")
    next_verb = ("test", "--config", "FILE", "--model.classifier.checkpoint")

    def __init__(
        self,
        classifier: nn.Module,
        checkpoint: str | None = None,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
        schedule: Literal["milestones", "cosine"] = "milestones",
        milestones: list[int] = [60, 120, 160],  # noqa: B006 (never changed)
        gamma: float = 0.2,
        warmup: int = 0,
        lr_reference_batch: int | None = None,
        ema_decay: float | None = None,
        channels_last: bool = False,
        compile: bool = False,
        adversary: Attack | None = None,
        purifier: Purifier | Recipe | None = None,
        score_model: ScoreModel | None = None,
        parts: dict[str, float] | None = None,
        attack: Attack | None = None,
        attacked_images: int = 128,
        export: str | None = None,
    ) -> None:
        super().__init__(export)
        if lr <= 0 or not 0 <= momentum < 1 or weight_decay < 0 or not 0 < gamma <= 1:
            raise ValueError(
                "LitClassifier needs lr > 0, momentum in [0, 1), weight_decay >= 0 and gamma in (0, 1]; "
                f"got {lr}, {momentum}, {weight_decay}, {gamma}"
            )
        if warmup < 0 or attacked_images < 1 or (lr_reference_batch is not None and lr_reference_batch < 1):
            raise ValueError(
                "LitClassifier needs warmup >= 0, attacked_images >= 1 and lr_reference_batch >= 1; "
                f"got {warmup}, {attacked_images}, {lr_reference_batch}"
            )
        if any(milestone < 1 for milestone in milestones):
            raise ValueError(f"milestones must be numbers of epochs from 1 up; got {milestones}")
        if schedule not in ("milestones", "cosine"):
            raise ValueError(f"schedule must be 'milestones' or 'cosine'; got {schedule!r}")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise ValueError(f"LitClassifier needs ema_decay in [0, 1), or none; got {ema_decay}")
        if purifier is None and score_model is not None:
            raise ValueError(
                "a score model is for a purifier: name one as `model.purifier`, or leave `model.score_model` out"
            )
        before = Identity() if purifier is None else complete(purifier, score_model)
        self.mixture = Mixture(parts, adversary, before)  # no module, so that its networks are no part of the task
        if attack is not None:
            check_attack("attack", attack, before)
        self.started_from = None
        if checkpoint is not None:
            load_weights(classifier, checkpoint)
            self.started_from = f"{Path(checkpoint).name}, sha256 {inspect_weights(checkpoint).sha256}"
        self.classifier = classifier.to(memory_format=torch.channels_last) if channels_last else classifier
        self.lr, self.momentum, self.weight_decay, self.nesterov = lr, momentum, weight_decay, nesterov
        self.optimizer, self.scheduler = optimizer, scheduler
        self.schedule, self.milestones, self.gamma, self.warmup = schedule, sorted(milestones), gamma, warmup
        self.lr_reference_batch, self.ema_decay, self.compile_network = lr_reference_batch, ema_decay, compile
        self.attack, self.attacked_images = attack, attacked_images
        self.accuracy: Any = nn.ModuleDict({name: MeanMetric() for name in ("clean", "purified", "attacked")})
        self.seen = MeanMetric()  # accuracy of the epoch, on training images as they are seen
        self.loss = MeanMetric()  # on validation images, both halves of pairs
        self.left_to_attack = 0

    def setup(self, stage: str) -> None:
        if self.attack is not None or self.mixture.adversary is not None:  # before the first validation
            require_precision(self.trainer)
        super().setup(stage)

    def configure_callbacks(self) -> list[pl.Callback]:
        average = [] if self.ema_decay is None else [ExponentialMovingAverage(self.ema_decay, buffers=True)]
        return [*super().configure_callbacks(), *average]

    def configure_optimizers(self) -> Any:
        scale = 1.0 if self.lr_reference_batch is None else self.effective_batch() / self.lr_reference_batch
        optimizer = (self.optimizer or self.sgd)(self.classifier.parameters())
        for group in optimizer.param_groups:
            group["lr"] *= scale
        if self.scheduler is None:
            return {"optimizer": optimizer, "lr_scheduler": LambdaLR(optimizer, self.lr_factor)}
        scheduler = self.scheduler(optimizer)
        plateau = {"monitor": getattr(scheduler, "monitor", "val/loss"), "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **plateau}}

    def sgd(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser that is meant if none is named."""
        return torch.optim.SGD(
            parameters, self.lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
        )

    def lr_factor(self, epoch: int) -> float:
        """Learning rate of an epoch as a fraction of the highest one.

        Raises:
            ValueError: If the schedule is `cosine` and the trainer does not know its last epoch.
        """
        if epoch < self.warmup:
            return rise(epoch, self.warmup)
        if self.schedule == "milestones":
            return self.gamma ** bisect(self.milestones, epoch)
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError(f"schedule 'cosine' needs to know the last epoch: set trainer.max_epochs; it is {epochs}")
        return cosine(epoch, self.warmup, epochs)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.compile_network:
            self.classifier.compile()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y, index = batch
        weights = self.mixture.weights(x.ndim == 5).values()
        x = self.mixture.images(self.classifier, x, y, index, self.current_epoch)
        y = y.repeat_interleave(x.shape[1])
        logits = self.classifier(x.flatten(0, 1))  # one batch, so that batch normalisation sees the mixture
        loss = mean_cross_entropy(logits, y, [*weights])
        self.log("train/loss", loss, prog_bar=True, batch_size=len(y))
        self.seen.update((logits.argmax(1) == y).float())
        self.log("train/accuracy", self.seen, on_epoch=True, on_step=False)
        return loss

    def on_train_epoch_start(self) -> None:
        self.seen.reset()  # a checkpoint of the end of an epoch brings the mean of that epoch

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.seen.update_called:  # Lightning would begin the epoch's mean again
            with self.seen.sync_context():
                checkpoint["train_accuracy"] = dict(self.seen.metric_state)
            checkpoint["card"]["train/accuracy"] = f"{float(self.seen.compute()):.6g}"

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.global_rank == 0:  # the sums of all processes
            for name, value in checkpoint.get("train_accuracy", {}).items():
                setattr(self.seen, name, value.to(self.device))

    def on_validation_epoch_start(self) -> None:
        wanted = self.attack is not None or self.mixture.purifies
        self.left_to_attack = -(-self.attacked_images // self.trainer.world_size) if wanted else 0

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor], batch_idx: int) -> None:
        x, y, index = batch
        halves = {"clean": x} if x.ndim == 4 else {"clean": x[:, 0], "purified": x[:, 1]}
        for name, images in halves.items():
            logits = self._score(name, images, y)
            self.loss.update(F.cross_entropy(logits, y, reduction="none"))
            self.log("val/loss", self.loss)
        if few := min(self.left_to_attack, len(y)):
            self.left_to_attack -= few
            given = halves["clean" if self.mixture.purifies else [*halves][-1]]
            self._defend(given[:few], y[:few], index[:few], twins="purified" in halves)

    def _score(self, name: str, images: Tensor, y: Tensor) -> Tensor:
        logits = self.classifier(images)
        self.accuracy[name].update((logits.argmax(1) == y).float())
        self.log(f"val/accuracy_{name}", self.accuracy[name], prog_bar=True)
        return logits

    def _defend(self, x: Tensor, y: Tensor, index: Tensor, twins: bool) -> None:
        """Score the defence on images (B, C, H, W), purified where they have no twins, and under the attack."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("attacks need gradients: use Trainer(inference_mode=False), as the command line does")
        purifier, keys = self.mixture.purifier, image_keys(index, run_seed(), "validation")  # the same every time
        if self.mixture.purifies and not twins:
            self._score("purified", purified(purifier, self.classifier, x, combine(keys, -3)), y)
        if self.attack is not None:
            hostile = attacked(self.attack, purifier, self.classifier, x, y, keys)
            self._score("attacked", purified(purifier, self.classifier, hostile, combine(keys, -2)), y)

    def on_fit_end(self) -> None:
        self.export_weights(self.classifier, self.export)

    def facts(self) -> dict[str, object]:
        return {
            "purified": getattr(self.data, "purified", None),
            "classifier": type(self.classifier).__name__,
            **settings_of(self.classifier),
            "started_from": self.started_from,
            "loss": f"cross-entropy, {self.mixture}",
            **self.opponents,
            "lr": self.lr if self.optimizer is None else None,
            **({} if self.asked is None else self.own_parts(self.asked)),
            "effective_batch": None if self.data is None else self.effective_batch(),
            "ema_decay": self.ema_decay,
        }

    @cached_property
    def opponents(self) -> dict[str, str]:
        """What a card says of attacks, and of the purifier with the digest of its weights."""
        attacks = {"adversary": self.mixture.adversary, "attack": self.attack}
        told = {name: json.dumps(attack.settings) for name, attack in attacks.items() if attack is not None}
        if not self.mixture.purifies:
            return told
        purifier = self.mixture.purifier
        return told | {"purifier": str(purifier), "purifier_weights": f"sha256 {state_digest(purifier)}"}

    def own_parts(self, asked: Asked) -> dict[str, str | None]:
        """What a card says of an optimiser and a scheduler that were named; the configuration holds all of it."""
        optimizer, scheduler = asked["optimizers"][0], asked["schedulers"][0]
        group = ", ".join(f"{key}={value}" for key, value in optimizer["groups"][0].items() if value)
        return {
            "optimizer": None if self.optimizer is None else f"{optimizer['class']}({group})",
            "scheduler": None if self.scheduler is None else scheduler["class"],
        }
