"""What one step of the papers' trainings costs beside the same step on Gaussian noise: FLOP an image, and seconds.

    python -m benchmarks.trainings                  # the networks of the digits, on one CPU core
    python -m benchmarks.trainings --paper          # FLOP of the papers' networks for CIFAR-10, from shapes alone

Seconds are those of the CPU, the shortest of several steps; the optimiser is not in them.
"""

from __future__ import annotations

import argparse
import time

import torch

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
    Objective,
    ScoreModel,
    SDAEObjective,
    VPObjective,
)
from lit_pursamere.estimate.stages import stages_of
from lit_pursamere.markdown import markdown_table
from lit_pursamere.networks import DenoisingAutoencoder, WideResNet, WideResNetADP
from lit_pursamere.tasks import LitScoreModel

SIZE = {"channels": 1, "image_size": 8, "dropout": 0.1}
DDPM = {"block_out_channels": (16, 32), "attention": (False, True), "layers_per_block": 2, "norm_num_groups": 4, **SIZE}
DDPMPP = {"nf": 16, "ch_mult": (1, 2), "num_res_blocks": 2, "attn_resolutions": (4,), **SIZE}

World = dict[str, tuple[ScoreModel, dict[str, Objective]]]


def digits() -> World:
    judge = WideResNet(10, 2, channels=1)
    dae = DAEObjective()
    return {
        "DDPM": (DDPMScore(**DDPM), {"plain": DDPMObjective(), "ADDT": ADDTObjective(classifier=judge)}),
        "DDPM++": (DDPMppScore(**DDPMPP), {"plain": VPObjective(), "ADBM": ADBMObjective(classifier=judge)}),
        "autoencoder": (
            AutoencoderScore(DenoisingAutoencoder()),
            {"DAE": dae, "sDAE": SDAEObjective(classifier=judge)},
        ),
    }


def paper() -> World:
    with torch.device("meta"):
        judge, large = WideResNetADP(), WideResNet(70, 16)
        networks = DDPMScore(), DDPMppScore(), EDMScore()
    addt, edm = ADDTObjective(classifier=judge), EDMObjective()
    return {
        "DDPM": (networks[0], {"plain": DDPMObjective(), "ADDT": addt}),
        "DDPM++": (
            networks[1],
            {"plain": VPObjective(), "ADDT": addt, "ADBM": ADBMObjective(classifier=large)},
        ),
        "EDM": (networks[2], {"plain": edm, "ADDT": ADDTObjective(edm, classifier=judge)}),
    }


def flop(task: LitScoreModel, data: ImageDataModule) -> float:
    """FLOP of a step, for an image."""
    (stage,) = stages_of(task, data, {"max_steps": 1})
    return stage.cost.flop / stage.images  # type: ignore[union-attr]


def seconds(task: LitScoreModel, data: ImageDataModule, repeats: int) -> float:
    """Seconds of the CPU that a step of one batch takes, without the optimiser."""
    x = torch.rand(data.batch_size, data.channels, data.image_size, data.image_size)
    y = torch.arange(len(x)) % data.num_classes
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        sigma, noise, extra = task.draw(x, y)
        (task.loss(x, sigma, noise, y) + extra).backward()
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
    for network, (score_model, objectives) in (paper() if args.paper else digits()).items():
        first = None
        for name, objective in objectives.items():
            task = LitScoreModel(score_model, objective)
            found = flop(task, data)
            first = first or found
            timed = "" if args.paper else f"{seconds(task, data, args.repeats):.3g}"
            rows.append([network, name, f"{found / 1e9:.3g}", f"{found / first:.1f}", timed])
    print(markdown_table(["network", "training", "GFLOP an image", "beside plain", "CPU seconds a step"], rows), end="")


if __name__ == "__main__":
    main()
