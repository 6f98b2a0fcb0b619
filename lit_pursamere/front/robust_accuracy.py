"""Robust accuracy during the fit of any LightningModule, logged as `robustness/clean` and `robustness/ATTACK`.

    validation, every k-th epoch:  images of its batches, or given ones -> attack -> judge -> log
                                   classifier = the module's `forward`, behind a purifier if there is one

Weights that are averaged for the validation (`WeightAveraging`) are judged: images are, among its batches.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed
from torch import Tensor, nn

from lit_pursamere.attacks import Attack
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.evaluation.evaluation import Evaluation, systems_of
from lit_pursamere.front.attacks import Attacks, resolved
from lit_pursamere.front.classifier import Normalisation, numbers
from lit_pursamere.front.evaluate import STOCHASTIC, probed, purifier_of
from lit_pursamere.front.images import Images, gathered, labels_of, pair_of, pixels_of
from lit_pursamere.networks import Normalised
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import Knowledge
from lit_pursamere.seeding import forked_randomness, kept_randomness
from lit_pursamere.store.records import CLEAN
from lit_pursamere.tasks.folder_task import require_precision
from lit_pursamere.threat import ThreatModel

__all__ = ["RobustAccuracy"]

PREFIX = "robustness/"
LOW, HIGH = -1e-3, 1 + 1e-3  # rounding that is taken back with a normalisation


class RobustAccuracy(pl.Callback):
    """Logs the accuracy of the module under attack, in [0, 1], at the validations of every k-th epoch.

    The training does not notice: modes, `requires_grad`, gradients and random numbers are as before. The same images,
    starts and draws come at every validation, so values differ by the weights alone, and a run that was resumed logs
    those of one that was not. Several processes judge a share each, and log the accuracy on all of them; where
    Lightning's sampler repeats images to make shares equal, these count twice.

    Nonsense in the arguments ends the fit at its first validation, which is the sanity check before the first step. An
    attack that fails later on is told once in a warning, and left out of the log; the fit goes on.

    Args:
        attacks: As for `evaluate`; `pgd20_bpda` without a purifier is PGD on the module.
        threat: What attackers may change, in [0, 1] pixel units.
        purifier: As for `evaluate`. None: none.
        score_model: As for `evaluate`.
        normalise: (mean, std) that the module's `forward` wants. Images of the fit are then normalised ones, and are
            brought back to [0, 1] by it.
        images: Images in [0, 1] and labels, see `front.images.gathered`. None: the first ones of the first loader that
            the fit validates on.
        n: How many images, over all processes.
        every: Epochs between two evaluations; `trainer.validate` always makes one. A `ModelCheckpoint` that monitors an
            accuracy needs the same number as its `every_n_epochs`.
        noise: What attackers know of the purifier's noise. None: as in its paper.
        evaluations: Verdicts per image. None: 1, or 4 if the purifier answers differently the second time.
        batch_size: Images per forward pass.
        seed: Of all that is drawn.

    Raises:
        ValueError: If a number is below 1.
    """

    def __init__(
        self,
        attacks: Attacks = "pgd20_bpda",
        threat: ThreatModel | str = "linf 8/255",
        purifier: Purifier | str | Mapping[str, Any] | None = None,
        score_model: ScoreModel | str | Mapping[str, Any] | None = None,
        normalise: Normalisation | None = None,
        images: Any = None,
        n: int = 128,
        every: int = 1,
        noise: Knowledge | None = None,
        evaluations: int | None = None,
        batch_size: int = 128,
        seed: int = 0,
    ) -> None:
        if n < 1 or every < 1 or batch_size < 1 or (evaluations is not None and evaluations < 1):
            raise ValueError(
                f"RobustAccuracy needs n, every, evaluations and batch_size of at least 1; got {n}, {every}, "
                f"{evaluations}, {batch_size}"
            )
        self.asked, self.purifier, self.score_model, self.noise = attacks, purifier, score_model, noise
        self.threat = ThreatModel.of(threat) if isinstance(threat, str) else threat
        self.constants = None if normalise is None else [numbers(value) for value in normalise]
        self.images, self.n, self.every = images, n, every
        self.evaluations, self.batch_size, self.seed = evaluations, batch_size, seed
        self.attacks: dict[str, Attack] | None = None
        self.told: set[str] = set()
        self.begin()

    def begin(self) -> None:
        """Forget the images and verdicts of the last validation."""
        self.pending: list[Images] = []
        self.right: dict[str, tuple[float, int]] = {}  # by attack: right answers, images
        self.done = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        require_precision(trainer)
        if self.attacks is None:
            self.defended = purifier_of(self.purifier, self.score_model, self.noise, {})

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.begin()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *place: int
    ) -> None:
        """Judge as soon as there are enough images, while averaged weights are in the module, if there are such."""
        batch_idx, loader = (*place, 0)[:2]
        if self.done or loader or not self.due(trainer):
            return
        share = -(-self.n // trainer.world_size)
        if self.images is not None:
            self.judge(trainer, pl_module, self.given(trainer))
            return
        self.pending.append(self.taken(batch))
        ended = batch_idx + 1 >= trainer.num_val_batches[0]
        if ended or trainer.sanity_checking or sum(map(len, self.pending)) >= share:
            self.judge(trainer, pl_module, first(self.pending, share))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not self.due(trainer):
            return
        if self.pending and not self.done:  # of a loader that did not know where it ends
            self.judge(trainer, pl_module, first(self.pending, self.n))
        for name, (right, count) in sum_of(self.right, trainer.world_size).items():
            if right == right:  # not failed
                pl_module.log(PREFIX + name, right / count, sync_dist=True)

    def due(self, trainer: pl.Trainer) -> bool:
        """Whether this validation is one of those with an evaluation, or the rehearsal of one."""
        always = trainer.sanity_checking or trainer.state.fn == "validate"
        return always or (trainer.current_epoch + 1) % self.every == 0

    def given(self, trainer: pl.Trainer) -> Images:
        """This process's share of the given images; they are read once."""
        if not isinstance(self.images, Images):
            self.images = gathered(self.images, self.n, self.seed)
        rank, world = trainer.global_rank, trainer.world_size
        return Images(self.images.pixels[rank::world], self.images.labels[rank::world])

    def taken(self, batch: Any) -> Images:
        """The images of a batch of the fit, the clean ones of pairs, in [0, 1].

        Raises:
            ValueError: If they are neither in [0, 1] nor normalised as `normalise` says.
        """
        x, y = pair_of(batch)
        x = x[:, 0] if isinstance(x, Tensor) and x.ndim == 5 else x
        return Images(pixels_of(x if self.constants is None else restored(x, *self.constants)), labels_of(y))

    def judge(self, trainer: pl.Trainer, pl_module: pl.LightningModule, images: Images) -> None:
        """Attack and judge images by the module as it is now, or, in a sanity check, see whether that will be possible.

        Raises:
            ValueError: If the attacks, the purifier, the images and the module do not fit together.
        """
        self.done = True
        if not len(images):
            return
        with undisturbed(pl_module, self.seed), trainer.precision_plugin.forward_context():
            network: nn.Module = pl_module
            if self.constants is not None:
                network = Normalised(pl_module, *self.constants).to(pl_module.device)
            dtype: Any = pl_module.dtype
            purifier = self.defended.to(pl_module.device, dtype)
            if self.attacks is None:
                classes, draws = probed(purifier, network, images, pl_module.device)
                found, _ = resolved(self.asked, classes, draws)
                self.attacks = {name: attack.within(self.threat) for name, attack in found.items()}
                self.evaluations = self.evaluations or (STOCHASTIC if draws else 1)
            systems = systems_of(Defense(purifier, network), undefended=False)
            slots, times = min(self.batch_size, len(images)), self.evaluations or 1
            evaluation = Evaluation(systems, self.attacks, "", slots, times, self.seed)
            if not trainer.sanity_checking:
                x, y = (tensor.to(pl_module.device) for tensor in images.tensors())
                index = trainer.global_rank + trainer.world_size * torch.arange(len(y))
                columns = (x.to(dtype).split(slots), y.split(slots), index.split(slots))
                self.attack(evaluation, list(zip(*columns, strict=True)))

    def attack(self, evaluation: Evaluation, batches: list[Any]) -> None:
        """Count right answers under every attack; of one that fails, nothing."""
        (system,) = evaluation.systems
        clean: dict[int, object] = {}
        for name in (CLEAN, *evaluation.attacks):
            try:
                rows = [row for part in evaluation.verdicts(system, name, batches, clean) for row in part.rows]
                votes: list[Any] = [
                    row["votes_any"] if row["votes_any"] is not None else row["votes_last"] for row in rows
                ]
                self.right[name] = sum(votes) / evaluation.evaluations, len(rows)
                clean = clean or {row["index"]: row["prediction_last"] for row in rows}
            except Exception as error:  # hours of training are worth more than one number
                self.right[name] = float("nan"), 1
                if name not in self.told:
                    warnings.warn(f"{PREFIX}{name} is not logged, it failed: {error}", stacklevel=2)
                self.told.add(name)


def first(parts: list[Images], count: int) -> Images:
    """The first images of batches."""
    pixels, labels = (
        np.concatenate(column)[:count] for column in zip(*((p.pixels, p.labels) for p in parts), strict=True)
    )
    return Images(pixels, labels)


def restored(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Images (B, C, H, W) before a normalisation.

    Raises:
        ValueError: If they seem to be in [0, 1] already.
    """
    x = x.detach().to(torch.float32)
    if x.min() >= 0 and x.max() <= 1:
        raise ValueError(
            "the images that the fit validates on lie in [0, 1], so `forward` does not get normalised ones: leave "
            "`normalise` out, or give `images`"
        )
    scale, shift = (torch.tensor(values, device=x.device).view(-1, 1, 1) for values in (std, mean))
    pixels = x * scale + shift
    return pixels.clamp(0, 1) if pixels.min() >= LOW and pixels.max() <= HIGH else pixels


def sum_of(right: dict[str, tuple[float, int]], processes: int) -> dict[str, tuple[float, int]]:
    """Right answers and images of all processes, by attack, the same on each of them; some may have had no images."""
    parts: list[Any] = [right] * processes
    if processes > 1:
        torch.distributed.all_gather_object(parts, right)
    names = list(dict.fromkeys(name for part in parts for name in part))
    of = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: (sum(hits for hits, _ in found), sum(count for _, count in found)) for name, found in of.items()}


@contextmanager
def undisturbed(module: nn.Module, seed: int) -> Iterator[None]:
    """Take gradients and draw random numbers inside; afterwards the module and all generators are as before."""
    modes = [(part, part.training) for part in module.modules()]
    trained = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    with torch.inference_mode(False), torch.enable_grad(), forked_randomness(seed), kept_randomness():
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            for parameter, wanted in trained:
                parameter.requires_grad_(wanted)
            for part, mode in modes:
                part.training = mode
