"""What one step of the papers' trainings costs beside a plain one: FLOP an image, and seconds.

Plain is the same step on Gaussian noise for score models, on clean images for classifiers.

    python -m benchmarks.trainings                  # the networks of the digits, on one CPU core
    python -m benchmarks.trainings --paper          # FLOP of the papers' networks for CIFAR-10, from shapes alone

Seconds are those of the CPU, the shortest of several steps; the optimiser is not in them.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

from lit_pursamere.attacks import PGD
from lit_pursamere.data import CIFAR10, Digits, ImageDataModule
from lit_pursamere.diffusion import (
    ADBMObjective,
    ADDTObjective,
    AutoencoderScore,
    DAEObjective,
    DDPMObjective,
    DDPMppScore,
    DDPMScore,
    EDMObjective,
    EDMScore,
    NCSNv2Score,
    NoiseLevels,
    Objective,
    ScoreModel,
    SDAEObjective,
    VPObjective,
)
from lit_pursamere.estimate.stages import stages_of
from lit_pursamere.markdown import markdown_table
from lit_pursamere.networks import DenoisingAutoencoder, WideResNet, WideResNetADP
from lit_pursamere.purifiers import Purifier, PurSAMERE
from lit_pursamere.tasks import LitClassifier, LitScoreModel
from lit_pursamere.tasks.adversarial import mean_cross_entropy
from lit_pursamere.threat import Pixels, ThreatModel, View

SIZE = {"channels": 1, "image_size": 8, "dropout": 0.1}
DDPM = {"block_out_channels": (16, 32), "attention": (False, True), "layers_per_block": 2, "norm_num_groups": 4, **SIZE}
DDPMPP = {"nf": 16, "ch_mult": (1, 2), "num_res_blocks": 2, "attn_resolutions": (4,), **SIZE}

Task = LitScoreModel | LitClassifier
World = dict[str, dict[str, Task]]


def score_models(network: ScoreModel, objectives: dict[str, Objective]) -> dict[str, Task]:
    return {name: LitScoreModel(network, objective) for name, objective in objectives.items()}


def classifiers(network: nn.Module, purifier: Purifier, threat: ThreatModel, steps: int, few: int) -> dict[str, Task]:
    """Plain, on pairs made at every step, and adversarial: PGD of so many steps alone, of a few behind a purifier."""

    def attack(view: View, count: int) -> PGD:
        return PGD(threat, view, steps=count, start="ball")

    behind = {f"behind it, {few} {view} steps": attack(view, few) for view in ("bpda", "exact")}
    return {
        "plain": LitClassifier(network),
        "eq. 17, purified at every step": LitClassifier(network, purifier=purifier),
        f"Madry, PGD-{steps}": LitClassifier(network, adversary=attack("gray", steps)),
        **{name: LitClassifier(network, purifier=purifier, adversary=found) for name, found in behind.items()},
    }


def digits() -> World:
    judge = WideResNet(10, 2, channels=1)
    addt, adbm = ADDTObjective(classifier=judge), ADBMObjective(classifier=judge)
    levels = NoiseLevels(sigma_max=5.0, sigma_min=0.01, count=64, first=1.0, last=0.02, stride=7)
    light = PurSAMERE(NCSNv2Score(ngf=16, channels=1, image_size=8), 1.5, 0.0, 1, levels)
    return {
        "DDPM": score_models(DDPMScore(**DDPM), {"plain": DDPMObjective(), "ADDT": addt}),
        "DDPM++": score_models(DDPMppScore(**DDPMPP), {"plain": VPObjective(), "ADBM": adbm}),
        "autoencoder": score_models(
            AutoencoderScore(DenoisingAutoencoder()),
            {"DAE": DAEObjective(), "sDAE": SDAEObjective(classifier=judge)},
        ),
        "WRN-10-2, light PurSAMERE": classifiers(
            WideResNet(10, 2, channels=1), light, ThreatModel("linf", Pixels(0.15)), 7, 3
        ),
    }


def paper() -> World:
    with torch.device("meta"):
        judge, large, robust = WideResNetADP(), WideResNet(70, 16), WideResNet(34, 10)
        networks = DDPMScore(), DDPMppScore(), EDMScore()
        pursamere = PurSAMERE(NCSNv2Score(ngf=128, channels=3, image_size=32))
    addt, edm = ADDTObjective(classifier=judge), EDMObjective()
    adbm = ADBMObjective(classifier=large)
    return {
        "DDPM": score_models(networks[0], {"plain": DDPMObjective(), "ADDT": addt}),
        "DDPM++": score_models(networks[1], {"plain": VPObjective(), "ADDT": addt, "ADBM": adbm}),
        "EDM": score_models(networks[2], {"plain": edm, "ADDT": ADDTObjective(edm, classifier=judge)}),
        "WRN-34-10, PurSAMERE": classifiers(robust, pursamere, ThreatModel("linf", Pixels("8/255")), 10, 3),
    }


def flop(task: Task, data: ImageDataModule) -> float:
    """FLOP of a step, for an image."""
    (stage,) = stages_of(task, data, {"max_steps": 1})
    return stage.cost.flop / stage.images  # type: ignore[union-attr]


def loss(task: Task, x: Tensor, y: Tensor) -> Tensor:
    """What a step on images (B, C, H, W) of classes (B,) differentiates."""
    if isinstance(task, LitScoreModel):
        sigma, noise, extra = task.draw(x, y)
        return task.loss(x, sigma, noise, y) + extra
    weights = [*task.mixture.weights(pairs=False).values()]
    images = task.mixture.images(task.classifier, x, y, torch.arange(len(x)), 0)
    logits = task.classifier(images.flatten(0, 1))
    return mean_cross_entropy(logits, y.repeat_interleave(len(weights)), weights)


def seconds(task: Task, data: ImageDataModule, repeats: int) -> float:
    """Seconds of the CPU that a step of one batch takes, without the optimiser."""
    x = torch.rand(data.batch_size, data.channels, data.image_size, data.image_size)
    y = torch.arange(len(x)) % data.num_classes
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        loss(task, x, y).backward()
        taken.append(time.process_time() - started)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--repeats", type=int, default=6)
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = CIFAR10(batch_size=32) if args.paper else Digits(batch_size=128)
    rows = []
    for network, tasks in (paper() if args.paper else digits()).items():
        first = None
        for name, task in tasks.items():
            found = flop(task, data)
            first = first or found
            timed = "" if args.paper else f"{seconds(task, data, args.repeats):.3g}"
            rows.append([network, name, f"{found / 1e9:.3g}", f"{found / first:.1f}", timed])
    print(markdown_table(["network", "training", "GFLOP an image", "beside plain", "CPU seconds a step"], rows), end="")


if __name__ == "__main__":
    main()
