r"""How fast score models train: `fit` of LitScoreModel against a plain loop, and what the data pipeline costs.

    python benchmarks/train_score.py                                  # about two minutes on two CPU cores
    python benchmarks/train_score.py --device cuda --ngf 128 --batch 128 --steps 100 --precision 32-true bf16-mixed \
        --compile

The plain loop is what one writes first: a DataLoader that flips image by image, contiguous float32 tensors, Adam, and a
moving average in a Python loop. The network alone goes forward and backward on one batch, without data, noise,
optimiser or average: no training can be faster. Variants take turns within every repeat, so that other load on the
machine hits all of them alike. Images are random: the time does not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl
import torch
import torchvision.transforms.v2 as v2
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from lit_pursamere.data import ArrayDataset, ImageDataModule
from lit_pursamere.data.base import IndexedView
from lit_pursamere.diffusion import NCSNv2Score
from lit_pursamere.tasks import LitScoreModel

PLAIN, ALONE = "plain loop", "network alone, float32"


class RandomImages(ImageDataModule):
    """As many random uint8 images as CIFAR-10 has, or fewer."""

    name, num_classes, class_names = "random", 10, tuple("0123456789")

    def __init__(self, count: int, channels: int, image_size: int, **options) -> None:
        super().__init__(**options)
        self.count, self.channels, self.image_size = count, channels, image_size

    def load(self, split: str) -> ArrayDataset:
        shape = (self.count, self.channels, self.image_size, self.image_size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return ArrayDataset(images, torch.zeros(self.count))


class Stopwatch(pl.Callback):
    """Seconds that `steps` training steps take, without what comes before them."""

    def __init__(self, warmup: int, steps: int) -> None:
        self.warmup, self.steps, self.seconds = warmup, steps, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *unused) -> None:
        if trainer.global_step in (self.warmup, self.warmup + self.steps):
            synchronise(trainer.strategy.root_device)
            self.seconds = time.perf_counter() - self.seconds


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    quiet()
    torch.backends.cudnn.benchmark = True
    device = torch.device(args.device)
    report = {"arguments": vars(args), "machine": describe_machine(device), "flop_per_step": count_flop(args)}
    report["loss_difference"] = compare(args)
    variants: dict[str, Callable[[], float]] = {
        PLAIN: lambda: run_plainly(args, device),
        ALONE: lambda: run_alone(args, device),
    }
    for precision in args.precision:
        variants[f"fit, {precision}"] = lambda precision=precision: run_fit(args, precision, compiled=False)
        if args.compile:
            variants[f"fit, {precision}, compiled"] = lambda precision=precision: run_fit(args, precision, True)
    seconds = {name: [] for name in variants}
    for repeat in range(args.repeats):
        for name, run in variants.items():
            seconds[name].append(run() / args.steps)
            print(f"repeat {repeat + 1} of {args.repeats}, {name}: {seconds[name][-1]:.4f} s a step", file=sys.stderr)
    report["seconds_per_step"] = seconds
    report["pipeline_images_per_second"] = measure_pipelines(args, device)
    print_report(report)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    if report["loss_difference"] > 1e-4:
        sys.exit("the two loops do not compute the same loss")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ngf", type=int, default=16, help="width of the NCSNv2 network (paper: 128)")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--images", type=int, default=10_000, help="size of the data set")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of every run, after 2 for warming up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of the plain loop")
    parser.add_argument("--precision", nargs="+", default=["32-true"], help="Lightning's precisions")
    parser.add_argument("--compile", action="store_true", help="also measure compiled networks")
    parser.add_argument("--json", metavar="OUT", help="write every number to this file")
    return parser.parse_args()


def quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


def images(args: argparse.Namespace, **options) -> RandomImages:
    data = RandomImages(args.images, args.channels, args.image_size, batch_size=args.batch, flip=True, **options)
    data.setup("fit")
    return data


class Flipped(IndexedView):
    """Images that are mirrored at random one by one, as plain pipelines do."""

    flip = v2.RandomHorizontalFlip()

    def __getitem__(self, position: int) -> tuple[Tensor, int, int]:
        x, y, index = super().__getitem__(position)
        return self.flip(x), y, index


def plain_loader(args: argparse.Namespace) -> DataLoader:
    data = images(args)
    view = Flipped(data.sources["train"], range(args.images))
    return DataLoader(view, args.batch, shuffle=True, drop_last=True, num_workers=args.workers)


def plain_loss(network: nn.Module, x: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Annealed denoising score matching as in the paper: scores are compared, then weighted with sigma^2."""
    sigma = sigma.view(-1, 1, 1, 1)
    score = network(x + sigma * noise) / sigma
    return 0.5 * ((score + noise / sigma).square().flatten(1).sum(1) * sigma.flatten() ** 2).mean()


def run_plainly(args: argparse.Namespace, device: torch.device) -> float:
    """Train as one would write it first; returns the seconds of the timed steps."""
    score_model = NCSNv2Score(ngf=args.ngf, channels=args.channels, image_size=args.image_size)
    network = score_model.network.to(device, memory_format=torch.contiguous_format)
    averaged = copy.deepcopy(network)
    sigmas = torch.tensor(LitScoreModel(score_model).objective.levels, device=device)
    adam = torch.optim.Adam(network.parameters(), 1e-4)
    started, batches = 0.0, iter(plain_loader(args))
    for step in range(2 + args.steps):
        if step == 2:
            synchronise(device)
            started = time.perf_counter()
        x = next(batches)[0].to(device)
        sigma = sigmas[torch.randint(len(sigmas), (len(x),), device=device)]
        loss = plain_loss(network, x, sigma, torch.randn_like(x))
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for mean, parameter in zip(averaged.parameters(), network.parameters(), strict=True):
                mean.mul_(0.999).add_(parameter, alpha=0.001)
    synchronise(device)
    return time.perf_counter() - started


def run_alone(args: argparse.Namespace, device: torch.device) -> float:
    """Forward and backward on one resident batch, and nothing else; returns the seconds of the timed steps."""
    score_model = NCSNv2Score(ngf=args.ngf, channels=args.channels, image_size=args.image_size)
    network = score_model.network.to(device, memory_format=torch.channels_last)
    x = torch.rand(args.batch, args.channels, args.image_size, args.image_size, device=device)
    x = x.to(memory_format=torch.channels_last)
    started = 0.0
    for step in range(2 + args.steps):
        if step == 2:
            synchronise(device)
            started = time.perf_counter()
        network.zero_grad()
        network(x).square().sum().backward()
    synchronise(device)
    return time.perf_counter() - started


def run_fit(args: argparse.Namespace, precision: str, compiled: bool) -> float:
    """Train with LitScoreModel and Lightning's Trainer; returns the seconds of the timed steps."""
    score_model = NCSNv2Score(ngf=args.ngf, channels=args.channels, image_size=args.image_size)
    task = LitScoreModel(score_model, compile=compiled)
    watch = Stopwatch(2, args.steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu" if args.device == "cuda" else "cpu", devices=1, precision=precision,
            max_steps=2 + args.steps, callbacks=[watch], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(task, images(args))
    return watch.seconds


def measure_pipelines(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Images per second that each pipeline alone delivers on the device."""
    resident = images(args).train_dataloader()
    resident.versions = [tensor.to(device) for tensor in resident.versions]
    resident.labels, resident.index = resident.labels.to(device), resident.index.to(device)
    rates = {}
    for name, loader in (("resident", resident), (f"DataLoader, {args.workers} workers", plain_loader(args))):
        batches = iter(loader)
        next(batches)
        started, count = time.perf_counter(), 0
        for x, *_ in batches:
            count += len(x.to(device))
            if time.perf_counter() - started > 5:
                break
        synchronise(device)
        rates[name] = count / (time.perf_counter() - started)
    return rates


def compare(args: argparse.Namespace) -> float:
    """Relative difference of the two losses on one batch in float64: whether both loops train the same thing."""
    torch.manual_seed(0)
    task = LitScoreModel(NCSNv2Score(ngf=args.ngf, channels=args.channels, image_size=args.image_size)).double()
    x = torch.rand((4, args.channels, args.image_size, args.image_size), dtype=torch.float64)
    sigma, noise, _ = task.draw(x)
    with torch.no_grad():
        ours, theirs = task.loss(x, sigma, noise), plain_loss(task.score_model.network, x, sigma, noise[0])
    return float((ours - theirs).abs() / theirs)


def count_flop(args: argparse.Namespace) -> float:
    """Floating point operations of one training step: forward, and gradients of the weights and activations."""
    task = LitScoreModel(NCSNv2Score(ngf=args.ngf, channels=args.channels, image_size=args.image_size))
    x = torch.rand((1, args.channels, args.image_size, args.image_size))
    with FlopCounterMode(display=False) as counter:
        task.loss(x, *task.draw(x)[:2]).backward()
    return counter.get_total_flops() * args.batch


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def describe_machine(device: torch.device) -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "lightning": pl.__version__,
    }


def print_report(report: dict) -> None:
    args, flop = report["arguments"], report["flop_per_step"]
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    print(f"ngf {args['ngf']}, {args['batch']} images {args['image_size']}x{args['image_size']}x{args['channels']}, "
          f"{flop / 1e9:.1f} GFLOP a step; losses differ by {report['loss_difference']:.1e}\n")  # fmt: skip
    plain, alone = (statistics.median(report["seconds_per_step"][name]) for name in (PLAIN, ALONE))
    print("| variant | steps/s, median | range | GFLOP/s | against the plain loop | of the network alone |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, seconds in report["seconds_per_step"].items():
        median = statistics.median(seconds)
        spread = f"{1 / max(seconds):.2f}-{1 / min(seconds):.2f}"
        print(f"| {name} | {1 / median:.2f} | {spread} | {flop / median / 1e9:.0f} | {plain / median:.2f} | "
              f"{alone / median:.0%} |")  # fmt: skip
    print("\n| pipeline alone | images/s |\n| --- | --- |")
    for name, rate in report["pipeline_images_per_second"].items():
        print(f"| {name} | {rate:,.0f} |")


if __name__ == "__main__":
    main()
