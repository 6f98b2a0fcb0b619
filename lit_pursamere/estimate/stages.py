"""The stages of a run, and what they take: images times what an image takes.

training:      steps x batch x a call of the network with the gradients of its weights (once for each part of the
               loss; pairs: twice), and what attacks and purifications take that make the images, or the noise
purification:  images x the calls of a purification
certificate:   images x (n0 + n) x (purification + classifier), at every noise level
clean verdict: images x evaluations x (purification + classifier)
attack:        images x (queries for values and for gradients of its view, and verdicts on the last and worst iterate)

Counted without data where the data set knows how many images it has and how large they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from lit_pursamere.attacks import Attack, IterativeAttack
from lit_pursamere.data import ImageDataModule
from lit_pursamere.estimate.asking import Asking, Cost, shape_of
from lit_pursamere.estimate.calls import Queries, count_queries
from lit_pursamere.estimate.prices import Price
from lit_pursamere.tasks import LitCertification, LitClassifier, LitPurification, LitRobustness, LitScoreModel
from lit_pursamere.tasks.adversarial import defended
from lit_pursamere.tasks.score_model import BANDS

__all__ = ["Stage", "stages_of", "training_batches"]

UPPER = "upper bound: images that are fooled leave early"
LIBRARY = "queries if no image is ever fooled, so mostly an upper bound"
UNKNOWN = "its cost is not decided by its queries"
DEFAULT_EPOCHS = 1000  # what Lightning does where it is told no end


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Args:
        name: What is done.
        images: How many images, or pairs, go through it, over all epochs.
        size: Images, or pairs, in a batch.
        cost: Of all of them (None: not known).
        setting: That says how large a batch is.
        note: What a reader should know.
        precision: Of the trainer.
        speed: FLOP per second of this machine, where it was measured.
    """

    name: str
    images: float
    size: int
    cost: Cost | None
    setting: str = "data.eval_batch_size"
    note: str = ""
    precision: str = "32-true"
    speed: float | None = None

    @property
    def flop(self) -> float | None:
        """FLOP of all of it."""
        return None if self.cost is None else self.cost.flop

    @property
    def here(self) -> float | None:
        """Seconds on this machine, where they are known."""
        return self.flop and (self.flop / self.speed if self.speed else None)

    @property
    def room(self) -> float:
        """Bytes that a batch needs, beside weights; rather too many than too few."""
        if self.cost is None or self.cost.price is None:
            return 0.0
        return self.cost.price.room(self.cost.kind, min(self.size, math.ceil(self.images)) * self.cost.together)


def stages_of(task: pl.LightningModule, data: ImageDataModule, settings: dict) -> list[Stage]:
    """The stages of a run.

    Args:
        task: What is run; it stays as it is.
        data: Its data; files are read only if it does not say without them what is in them.
        settings: Arguments of its trainer.

    Raises:
        OSError: If files are needed, and not there.
        ValueError: If the run is none that can be estimated.
    """
    if data.counts:
        sources: Any = {split: range(count) for split, count in data.counts.items()}
        data.sources = sources
    else:
        data.prepare_data()
        data.setup("fit" if isinstance(task, LitClassifier | LitScoreModel) else "test")
    if isinstance(task, LitClassifier | LitScoreModel):
        return training_stages(task, data, settings)
    if isinstance(task, LitPurification):
        images = limited(len(data.indices(data.evaluate)), data.eval_batch_size, settings.get("limit_predict_batches"))
        return [Stage("purification", images, data.eval_batch_size, Asking(task.purifier, data).purified() * images)]
    if isinstance(task, LitRobustness):
        return evaluation_stages(task, data, settings)
    if isinstance(task, LitCertification):
        return certification_stages(task, data, settings)
    raise ValueError(f"nothing is known of the cost of {type(task).__name__}")


def limited(images: int, size: int, limit: float | None) -> int:
    """How many images a trainer sees that is limited to so many batches, or to that share of them."""
    batches = -(-images // size)
    most = batches if limit is None else int(batches * limit) if isinstance(limit, float) else limit
    return min(images, size * most)


def evaluation_stages(task: LitRobustness, data: ImageDataModule, settings: dict) -> list[Stage]:
    """Stages of a `test`: the clean verdicts of every system, and every attack on it."""
    images = limited(len(data.test_indices()), data.eval_batch_size, settings.get("limit_test_batches"))
    stages = []
    for system, defense in task.systems.items():
        asking = Asking(defense, data)
        verdict = asking.verdict() * task.evaluations
        stages.append(Stage(f"{system}, clean", images, data.eval_batch_size, verdict * images))
        for name, attack in task.attacks.items():
            queries = count_queries(attack, asking.x, asking.y, data.num_classes)
            note = (UPPER if attack.stop_on_success else "") if isinstance(attack, IterativeAttack) else LIBRARY
            # Few batches have no image whose worst iterate is not its last, and is judged, too.
            verdicts = 2 if isinstance(attack, IterativeAttack) and attack.view != "gray" else 1
            cost = None if queries is None else (asking.queries(attack.view, queries) + verdict * verdicts) * images
            note = UNKNOWN if cost is None else note
            stages.append(Stage(f"{system}, {name}", images, data.eval_batch_size, cost, note=note))
    return stages


def certification_stages(task: LitCertification, data: ImageDataModule, settings: dict) -> list[Stage]:
    """Stages of a `certify`: the draws of every noise level, a batch of them for an image."""
    images = limited(len(data.test_indices()), data.eval_batch_size, settings.get("limit_test_batches"))
    size = task.slots or data.eval_batch_size
    draws = images * size * -(-(task.certification.n0 + task.certification.n) // size)  # a last batch is filled up
    return [
        Stage(f"{name}, draws", draws, size, Asking(defense, data).verdict() * draws)
        for name, defense in task.systems.items()
    ]


def training_stages(task: LitClassifier | LitScoreModel, data: ImageDataModule, settings: dict) -> list[Stage]:
    """Stages of a `fit`: the training, and all its validations."""
    network: Any = task.classifier if isinstance(task, LitClassifier) else task.score_model
    price = Price(network, shape_of(data))
    count = len(data.indices("train"))
    size = min(data.batch_size, count)
    epoch = limited(count // size, 1, settings.get("limit_train_batches"))
    batches = training_batches(settings, epoch)
    lesson = lessons(task, price, data) if isinstance(task, LitClassifier) else guided_lesson(task, price, data)
    stages = [Stage("training", batches * size, size, lesson * (batches * size), "data.batch_size")]
    if data.val_size:
        rounds = batches // (epoch * (settings.get("check_val_every_n_epoch") or 1))
        images = limited(data.val_size, data.eval_batch_size, settings.get("limit_val_batches"))
        cost = validation(task, price, images, data) * rounds
        stages.append(Stage("validation", rounds * images, data.eval_batch_size, cost))
    return stages


def halves_of(data: ImageDataModule) -> int:
    """Images that an entry of a batch has: 2 of a pair."""
    return 1 if data.purified is None else 2


def guided_lesson(task: LitScoreModel, price: Price, data: ImageDataModule) -> Cost:
    """A step of a score model, for an image or a pair."""
    halves = halves_of(data)
    return Cost(price.flop("lesson") + guidance(task, price), price, "lesson", halves) * halves


def lessons(task: LitClassifier, price: Price, data: ImageDataModule) -> Cost:
    """A step of a classifier, for an image or a pair: the parts of its loss, and how they are made."""
    mixture, pairs = task.mixture, data.purified is not None
    parts = mixture.weights(pairs)
    cost = Cost(price.flop("lesson"), price, "lesson", len(parts)) * len(parts)
    made = ("purified" in parts and not pairs) + ("purified_adversarial" in parts)
    return cost + opposed(task, mixture.adversary, made, data)


def opposed(task: LitClassifier, attack: Attack | None, purifications: int, data: ImageDataModule) -> Cost:
    """An attack on a classifier behind the purifier of its training, and so many purifications, for an image."""
    cost, purifier = Cost(), task.mixture.purifier
    with defended(purifier, task.classifier, next(purifier.parameters(), torch.zeros(()))) as defense:
        if purifications:
            cost += Asking(defense.purifier, data).purified() * purifications
        if attack is not None:
            asking = Asking(defense, data)
            queries = count_queries(attack, asking.x, asking.y, data.num_classes) or Queries()
            cost += asking.queries(attack.view, queries)
    return cost


def validation(task: LitClassifier | LitScoreModel, price: Price, images: int, data: ImageDataModule) -> Cost:
    """One validation: of a score model in every band and at every level, of a classifier with its attack."""
    halves = halves_of(data)
    call = Cost(price.flop("call"), price, "call", halves)
    if isinstance(task, LitScoreModel):
        calls = min(BANDS, len(task.objective.levels)) + len(task.psnr_at)
        if not task.objective.refinements:
            return call * (images * calls)
        return (call * (calls + 1) + Cost(guidance(task, price), price, "gradient")) * images
    cost, few, purifies = call * (images * halves), min(task.attacked_images, images), task.mixture.purifies
    if purifies and halves == 1:
        cost += (opposed(task, None, 1, data) + call) * few
    if task.attack is not None:
        cost += (opposed(task, task.attack, int(purifies), data) + call) * few
    return cost


def guidance(task: LitScoreModel, price: Price) -> float:
    """FLOP for an image of noise that follows an attack, and of a frozen classifier that is asked about it."""
    slopes = task.objective.refinements
    asked = slope(price) * slopes
    classifier = getattr(task.objective, "classifier", None)
    return asked if classifier is None else asked + slope(Price(classifier, price.shape)) * max(slopes, 1)


def slope(price: Price) -> float:
    """FLOP of a call and of the gradient of the image."""
    return price.flop("call") + price.flop("gradient")


def training_batches(settings: dict, epoch: int) -> float:
    """Batches of a training whose epochs have so many, on any number of devices."""
    epochs, steps = settings.get("max_epochs"), settings.get("max_steps") or -1
    if epochs is None and steps < 0:
        epochs = DEFAULT_EPOCHS
    by_epochs = math.inf if epochs is None or epochs < 0 else epochs * epoch
    by_steps = math.inf if steps < 0 else steps * settings.get("accumulate_grad_batches", 1)
    if min(by_epochs, by_steps) == math.inf:
        raise ValueError(
            "this training has no end that could be estimated; set trainer.max_epochs or trainer.max_steps"
        )
    return min(by_epochs, by_steps)
