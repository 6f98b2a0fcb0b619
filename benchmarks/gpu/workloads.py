"""Trainings and attacks, whose speed depends on more than networks: on loaders, optimisers, and what is batched.

trainings   Lightning's Trainer, bf16-mixed, images resident on the device
EoT         one exact step of PGD over fresh draws, all draws in one batch against one after the other
slots       an attack whose images leave early: slots that are filled again against batches that shrink
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from functools import partial

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from bench import Bench
from measuring import arithmetic, compile_afresh, flop_of, free, on_meta, tuned
from torch import nn

from benchmarks.attack import Scripted
from benchmarks.train_classifier import RandomPairs
from benchmarks.train_score import RandomImages, Stopwatch
from lit_pursamere.attacks import PGD
from lit_pursamere.data import ImageDataModule
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import EDMScore, LogUniformObjective, NCSNv2Score
from lit_pursamere.networks import WideResNet
from lit_pursamere.purifiers import ADBM, PurSAMERE
from lit_pursamere.tasks import LitClassifier, LitScoreModel
from lit_pursamere.threat import ThreatModel

__all__ = ["attacks", "trainings"]

LINF = ThreatModel("linf", 8 / 255)
ATTACKED = "tf32"  # exact gradients are compared with their recomputation, for which bfloat16 is too coarse


def trainings(bench: Bench, compiled: bool) -> None:
    """Steps of the classifier's and of two score models' training, with eager or with compiled networks."""
    sizes = bench.sizes
    ngf = max(sizes.ncsnv2)
    tasks: dict[str, Callable[[], dict]] = {
        f"WRN-{sizes.classifier[0]}-{sizes.classifier[1]}": partial(train_classifier, bench, compiled),
        "small EDM": partial(train_small, bench, compiled),
        f"NCSNv2 ngf {ngf}": partial(train_ncsnv2, bench, compiled, ngf),
    }
    for name, work in tasks.items():
        label = f"training {name}, bf16-mixed, {'compiled' if compiled else 'eager'}"
        bench.step(label, work, *((60, 25) if compiled else (20, 3)))


def train_classifier(bench: Bench, compiled: bool) -> dict:
    """Steps on pairs; both images of a pair are counted."""
    network, batch, size = WideResNet(*bench.sizes.classifier), bench.sizes.trained["classifier"], bench.sizes.image
    x, y = torch.empty((2, 3, size, size), device="meta"), torch.zeros(2, dtype=torch.long, device="meta")
    twin = on_meta(network)
    flop = flop_of(lambda: F.cross_entropy(twin(x), y).backward()) / 2
    prepare(bench, network, compiled)
    task = LitClassifier(network, channels_last=True)
    return fit(bench, task, RandomPairs(enough(bench, batch), size, batch, None), 2 * batch, flop)


def train_small(bench: Bench, compiled: bool) -> dict:
    model, objective = EDMScore(**bench.sizes.small[0]), LogUniformObjective(sigma_max=1.0, sigma_min=0.01)
    return train_score(bench, LitScoreModel(model, objective), bench.sizes.trained["small"], compiled)


def train_ncsnv2(bench: Bench, compiled: bool, ngf: int) -> dict:
    model = NCSNv2Score(ngf=ngf, image_size=bench.sizes.image)
    return train_score(bench, LitScoreModel(model), bench.sizes.trained["ncsnv2"], compiled)


def train_score(bench: Bench, task: LitScoreModel, batch: int, compiled: bool) -> dict:
    size = bench.sizes.image
    twin, x = on_meta(task), torch.empty((1, 3, size, size), device="meta")
    flop = flop_of(lambda: twin.loss(x, *twin.draw(x)[:2]).backward())
    prepare(bench, task.score_model.network, compiled)
    data = RandomImages(enough(bench, batch), 3, size, batch_size=batch, flip=True)
    return fit(bench, task, data, batch, flop)


def enough(bench: Bench, batch: int) -> int:
    """Images for all steps, so that no epoch ends while they are timed."""
    return (sum(bench.sizes.steps) + 1) * batch


def prepare(bench: Bench, network: nn.Module, compiled: bool) -> None:
    free(bench.device)
    if compiled:
        compile_afresh(network, **bench.sizes.compiler)


def fit(bench: Bench, task: pl.LightningModule, data: ImageDataModule, images: int, flop: float) -> dict:
    """Train for the warm-up and the timed steps of `images` images each; `flop` is that of one image's step."""
    watch, logger = Stopwatch(*bench.sizes.steps), logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), tuned():
            warnings.simplefilter("ignore")
            trainer = pl.Trainer(
                accelerator="gpu" if bench.device.type == "cuda" else "cpu", devices=1, precision="bf16-mixed",
                max_steps=watch.warmup + watch.steps, callbacks=[watch], logger=False, enable_checkpointing=False,
                enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
                limit_val_batches=0,
            )  # fmt: skip
            trainer.fit(task, data)
    finally:
        logger.setLevel(level)
    return bench.row("bf16", images, images, watch.seconds / watch.steps, images * flop)


def attacks(bench: Bench) -> None:
    """What batching the draws of a stochastic defence gains, and what slots gain over batches that shrink."""
    for name, chunk in (("batched", None), ("serial", 1)):
        bench.step(f"EoT {bench.sizes.eot[1]}, {name}, {ATTACKED}", partial(expectation, bench, chunk), 20, 3)
    for share in (0.5, 0.8):
        for name, slots in (("fixed batches", False), ("slots", True)):
            label = f"{share:.0%} fall early, {name}, {ATTACKED}"
            bench.step(label, partial(early_leavers, bench, share, slots), 15, 3)


def expectation(bench: Bench, chunk: int | None) -> dict:
    """Images/s of one step of PGD through ADBM's five steps with the small EDM, `chunk` draws at a time."""
    sizes, device = bench.sizes, bench.device
    images, draws = sizes.eot
    torch.manual_seed(0)
    defense = Defense(ADBM(EDMScore(**sizes.small[0])), WideResNet(*sizes.classifier)).to(device)
    view, x = defense.view("exact"), bench.images(images)
    y = torch.zeros(images, dtype=torch.long, device=device)
    free(device)
    with arithmetic(ATTACKED, device):
        flop = flop_of(lambda: PGD(LINF, "exact", steps=1)(view, x[:1], y[:1]))
        attack = PGD(LINF, "exact", steps=1, eot=draws, eot_chunk=chunk)
        seconds = bench.seconds(lambda: attack(view, x, y))
    return bench.row(ATTACKED, images, images, seconds, images * draws * flop)


def early_leavers(bench: Bench, share: float, slots: bool) -> dict:
    """PGD through one level of PurSAMERE; a share of the images falls within the first quarter of the steps."""
    images, size, steps = bench.sizes.slots
    torch.manual_seed(0)
    model = NCSNv2Score(ngf=min(bench.sizes.ncsnv2), image_size=bench.sizes.image)
    purifier = PurSAMERE(model, sigmas=[0.1])
    classifier = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 10))
    view = Defense(purifier, classifier).to(bench.device).view("bpda")
    x, early = bench.images(images), torch.rand(images) < share
    y = torch.where(early, torch.randint(max(1, steps // 4), (images,)), steps).to(bench.device)
    attack = Scripted(LINF, steps=steps, stop_on_success=True)
    purified: list[int] = []
    purifier.register_forward_hook(lambda module, inputs, output: purified.append(len(output)))

    def attack_all() -> None:
        purified.clear()
        if slots:
            list(attack.in_slots(view, x, y, size))
        else:
            for part, labels in zip(x.split(size), y.split(size), strict=True):
                attack(view, part, labels)

    free(bench.device)
    with arithmetic(ATTACKED, bench.device):
        flop = flop_of(lambda: purifier(x[:1]))
        seconds = bench.seconds(attack_all)
    row = bench.row(ATTACKED, size, images, seconds, sum(purified) * flop)
    return row | {"purifications": sum(purified), "calls": len(purified)}
