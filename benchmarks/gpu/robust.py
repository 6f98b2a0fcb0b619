"""Adversarial training of a CIFAR-10 classifier, alone and behind PurSAMERE, for as many minutes as a GPU is there.

    python benchmarks/gpu/robust.py --minutes 9
    python benchmarks/gpu/robust.py --minutes 9 --only alone behind --score OUT/score.safetensors

alone    PGD on the classifier, trained on attacked images (Madry et al., 2018)
behind   a few BPDA steps through a light PurSAMERE, trained on attacked images after purification
exact    the same with exact gradients

Every one gets an equal share of the time: first it is trained, by a plain loop that looks at the clock, with the loss
and the attacks of the package and a learning rate that falls to 0; then the defence is attacked on images held out,
which no training has seen. In OUT are afterwards, renewed after every part:

| robust.json              | steps/s, images/s, memory; accuracies under every attack with n and 95 % intervals  |
| robust-NAME.safetensors  | weights of each classifier in float16                                               |
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from measuring import arithmetic
from packed import packed_images, toy_images
from session import Session, arguments, parsed
from torch import Tensor
from train_score import in_float16

from lit_pursamere.attacks import PGD
from lit_pursamere.data.resident import ResidentLoader, to_float
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import EDMScore, NoiseLevels
from lit_pursamere.evaluation import evaluate
from lit_pursamere.markdown import markdown_table
from lit_pursamere.networks import WideResNet
from lit_pursamere.purifiers import Identity, Purifier, PurSAMERE
from lit_pursamere.report.statistics import wilson
from lit_pursamere.seeding import reseed
from lit_pursamere.tasks.adversarial import Mixture, mean_cross_entropy
from lit_pursamere.tasks.training import cosine, rise
from lit_pursamere.threat import ThreatModel
from lit_pursamere.weights import model_card
from lit_pursamere.weights.saving import write_tensors

EDM = {"num_blocks": 1, "attn_resolutions": [], "augment_dim": 0, "dropout": 0.0}
SCORE = {"model_channels": 32, "channel_mult": [1, 2, 2], **EDM}  # that of cifar10/edm-small
TOY_SCORE = {"model_channels": 8, "channel_mult": [1, 1], "image_size": 16, **EDM}
TOY = {"batch": 4, "steps": 2, "few": 1, "attacked": 2, "levels": 2, "classifier": "10-1", "n": 4, "updates": 3}
NAMES = ("alone", "behind", "exact")
PRECISION = "tf32"  # exact gradients are compared with their recomputation, for which bfloat16 is too coarse
LINF = ThreatModel("linf", 8 / 255)
MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments("Adversarial training, alone and behind PurSAMERE, for a fixed time.", 9.0)
    add = parser.add_argument
    add("--only", nargs="+", choices=NAMES, default=NAMES, help="which trainings")
    add("--score", type=Path, help="weights of the EDMScore of configs/score_model/cifar10_denoiser (default: shipped)")
    add("--classifier", default="16-4", help="depth and width of the WideResNet")
    add("--batch", type=int, default=256, help="images a step")
    add("--steps", type=int, default=7, help="steps of PGD on the classifier alone")
    add("--few", type=int, default=3, help="steps of PGD through PurSAMERE")
    add("--levels", type=int, default=6, help="levels of PurSAMERE, of one draw each, without SAM")
    add("--rho", type=float, default=2.2, help="its radius")
    add("--lr", type=float, default=0.1, help="SGD's highest learning rate")
    add("--n", type=int, default=128, help="images held out that are attacked")
    add("--attacked", type=int, default=20, help="steps of the attacks on them")
    add("--updates", type=int, help="end after so many steps of the optimiser at the latest (default: by time)")
    add("--seed", type=int, default=0)
    return parsed(parser, args, TOY)


class Run:
    """All trainings: `prepare`, then `train` and `attack` for each by its name.

    Args:
        session: Knows the time and the device, and keeps the report.
        options: What `parse` returned.
    """

    def __init__(self, session: Session, options: argparse.Namespace) -> None:
        self.session, self.options, self.device, self.clock = session, options, session.device, session.clock
        self.networks: dict[str, WideResNet] = {}

    def prepare(self) -> dict[str, int]:
        """Read the images and the score model."""
        o = self.options
        if o.toy:
            train, held_out = (toy_images(count, seed, TOY_SCORE["image_size"]) for count, seed in ((40, 0), (8, 1)))
        else:
            train, held_out = packed_images(o.pack, "train"), packed_images(o.pack, "val")
        torch.backends.cudnn.benchmark = True
        x, y, index = train
        self.loader = ResidentLoader(
            [x], y, index, o.batch, self.device, crop=2 if o.toy else 4, flip=True, seed=o.seed
        )
        self.held_out = to_float(held_out[0][: o.n].to(self.device)), held_out[1][: o.n].to(self.device)
        reseed(o.seed)
        told = None if o.toy else str(o.score or "cifar10/edm-small")
        score = EDMScore(**(TOY_SCORE if o.toy else SCORE), checkpoint=told)
        levels = NoiseLevels(sigma_max=0.5, sigma_min=0.05, count=o.levels)
        self.pursamere = PurSAMERE(score, o.rho, rho_sam=0.0, draws=1, sigmas=levels)
        return {"train": len(x), "held_out": len(self.held_out[1])}

    def purifier(self, name: str) -> Purifier:
        return Identity() if name == "alone" else self.pursamere

    def mixture(self, name: str) -> Mixture:
        """What a training is of."""
        view = {"alone": "gray", "behind": "bpda", "exact": "exact"}[name]
        steps = self.options.steps if name == "alone" else self.options.few
        return Mixture(None, PGD(LINF, view, steps=steps, start="ball"), self.purifier(name))

    def batches(self) -> Iterator[tuple[int, tuple[Tensor, Tensor, Tensor]]]:
        """Batches of all epochs, with the epoch's number."""
        for epoch in itertools.count():
            self.loader.set_epoch(epoch)
            for batch in self.loader:
                yield epoch, batch

    def train(self, name: str, until: float) -> dict[str, object]:
        """Train until the clock says so, and export the weights.

        Raises:
            FloatingPointError: If the loss is no number any more.
        """
        o, mixture = self.options, self.mixture(name)
        reseed(o.seed)
        network = WideResNet(*map(int, o.classifier.split("-")), mean=MEAN, std=STD)
        network = network.to(self.device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(network.parameters(), o.lr, 0.9, weight_decay=5e-4, nesterov=True)
        began, steps, losses = self.clock(), 0, []
        weights = [*mixture.weights(pairs=False).values()]
        for epoch, (x, y, index) in self.batches():
            over = max((self.clock() - began) / max(until - began, 1e-9), steps / o.updates if o.updates else 0.0)
            if over >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = o.lr * rise(steps, 20) * cosine(over, 0, 1)
            with arithmetic(PRECISION, self.device):
                images = mixture.images(network, x, y, index, epoch)
                loss = mean_cross_entropy(network(images.flatten(0, 1)), y.repeat_interleave(len(weights)), weights)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            steps += 1
            losses.append(loss.item())  # the clock is to tell what is done, not what is asked for
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"the loss is {losses[-1]} at step {steps}")
        seconds = self.clock() - began
        self.networks[name] = network
        card = model_card(data="toy" if o.toy else "cifar10", classifier=f"WideResNet({o.classifier})", training=name,
                          loss=str(mixture), steps=steps, batch_size=o.batch, seed=o.seed)  # fmt: skip
        write_tensors(in_float16(network), self.session.out / f"robust-{name}.safetensors", card)
        cuda = self.device.type == "cuda"
        return {
            "steps": steps, "seconds": round(seconds, 1), "steps/s": round(steps / seconds, 3),
            "images/s": round(steps * o.batch / seconds, 1), "epochs": round(steps / len(self.loader), 2),
            "loss": round(sum(losses[-20:]) / max(len(losses[-20:]), 1), 4),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        }  # fmt: skip

    def attack(self, name: str) -> dict[str, dict]:
        """Accuracy of the defence on images held out, untouched and at any iterate of every attack."""
        o, (x, y) = self.options, self.held_out
        views = ("gray",) if name == "alone" else ("bpda", "exact")
        attacks = {
            f"{'PGD' if view == 'gray' else view}{o.attacked}": PGD(LINF, view, steps=o.attacked) for view in views
        }
        network = copy.deepcopy(self.networks[name])  # a defence freezes what it is made of
        with arithmetic(PRECISION, self.device):
            defense = Defense(self.purifier(name).to(self.device), network)
            rows = evaluate(defense, attacks, x, y, batch_size=o.batch, seed=o.seed)
        found = {}
        for attack in ("clean", *attacks):
            column = "votes_last" if attack == "clean" else "votes_any"
            right = [row[column] for row in rows if row["attack"] == attack]
            found[attack] = {
                "accuracy": sum(right) / len(right),
                "n": len(right),
                "interval": wilson(sum(right), len(right)),
            }
        return found


def main(args: Sequence[str] | None = None) -> dict:
    """Train and attack all of them, and return the report."""
    options = parse(args)
    session = Session("robust", options)
    run = Run(session, options)
    if session.step("prepare", run.prepare) is not None:
        for place, name in enumerate(options.only):
            share = session.left() / (len(options.only) - place)
            until, ends = session.clock() + 0.7 * share, session.clock() + share
            if session.step(f"{name}: train", partial(run.train, name, until), limit=share) is not None:
                session.step(f"{name}: attack", partial(run.attack, name), limit=max(ends - session.clock(), 1.0))
    print(table(session), file=sys.stderr)
    return session.finish()


def table(session: Session) -> str:
    """A row for each training that was attacked."""
    results, rows = session.report["results"], []
    for name in NAMES:
        trained, found = (results.get(f"{name}: {part}") for part in ("train", "attack"))
        if trained and found:
            cells = [f"{attack} {100 * cell['accuracy']:.1f} (n {cell['n']})" for attack, cell in found.items()]
            rows.append([name, f"{trained['steps/s']:g}", f"{trained['steps']}", ", ".join(cells)])
    return markdown_table(["training", "steps/s", "steps", "accuracy in %"], rows)


if __name__ == "__main__":
    main()
