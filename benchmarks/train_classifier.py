r"""How fast classifiers train on pairs, with resident images and with a plain DataLoader, and where the time goes.

    python benchmarks/train_classifier.py                             # about two minutes on two CPU cores
    python benchmarks/train_classifier.py --device cuda --network 16x4 28x10 --batch 128 --steps 100 --workers 8 \
        --precision 32-true bf16-mixed --compile

Every variant is `fit` of LitClassifier with Lightning's Trainer on the same random images, crops and flips. `resident`
keeps the images on the device and augments whole batches there; `plain` loads and augments pair by pair with
torchvision's transforms. Variants take turns within every repeat, so that other load on the machine hits all of them
alike. The shares of the time come from runs of their own, which wait for the device after every part of a step.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from lit_pursamere.data import ArrayDataset, ImageDataModule
from lit_pursamere.data.resident import ResidentLoader
from lit_pursamere.networks import WideResNet
from lit_pursamere.tasks import LitClassifier

ALONE = "network alone"
WARMUP = 2  # steps before the clock starts
PARTS = ("data", "forward", "backward", "optimiser")
PAPER_PAIRS = 200 * 50_000  # epochs times pairs


class PlainPairs(Dataset):
    """Pairs one by one, each under one random crop and flip."""

    def __init__(self, images: Tensor, twins: Tensor, labels: Tensor, size: int) -> None:
        self.images, self.twins, self.labels = images, twins, labels
        self.augment = v2.Compose([v2.RandomCrop(size, padding=4), v2.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        pair = torch.stack([self.images[index].float() / 255, self.twins[index].float()])
        return self.augment(pair), self.labels[index], index


class RandomPairs(ImageDataModule):
    """Random uint8 images and float16 twins, as a purified set holds them."""

    name, num_classes, channels, class_names = "random", 10, 3, tuple("0123456789")

    def __init__(self, count: int, image_size: int, batch_size: int, workers: int | None) -> None:
        super().__init__(batch_size=batch_size)
        self.count, self.image_size, self.workers = count, image_size, workers

    def load(self, split: str) -> ArrayDataset:
        draws = torch.Generator().manual_seed(0)
        shape = (self.count, self.channels, self.image_size, self.image_size)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
        self.twins = (images.float() / 255).half()
        return ArrayDataset(images, torch.randint(10, (self.count,), generator=draws))

    def train_dataloader(self) -> DataLoader | ResidentLoader:
        source = self.sources["train"]
        if self.workers is None:
            device = self.trainer.strategy.root_device
            versions, index = [source.images, self.twins], torch.arange(self.count)
            return ResidentLoader(versions, source.labels, index, self.batch_size, device, crop=4, flip=True)
        pairs = PlainPairs(source.images, self.twins, source.labels, self.image_size)
        return DataLoader(
            pairs, self.batch_size, shuffle=True, drop_last=True, num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
        )  # fmt: skip


class Stopwatch(pl.Callback):
    """Seconds of the steps after the warm-up: all together, or with `parts` each part of them by itself."""

    def __init__(self, parts: bool = False) -> None:
        self.parts, self.seconds, self.started, self.last = dict.fromkeys(PARTS, 0.0) if parts else None, 0.0, 0.0, 0.0

    def lap(self, trainer: pl.Trainer, part: str) -> None:
        if self.parts is None:
            return
        synchronise(trainer.strategy.root_device)
        now = time.perf_counter()
        if trainer.fit_loop.epoch_loop.total_batch_idx >= WARMUP:
            self.parts[part] += now - self.last
        self.last = now

    def on_train_batch_start(self, trainer: pl.Trainer, *unused) -> None:
        self.lap(trainer, "data")

    def on_before_zero_grad(self, trainer: pl.Trainer, *unused) -> None:
        self.lap(trainer, "forward")

    def on_after_backward(self, trainer: pl.Trainer, *unused) -> None:
        self.lap(trainer, "backward")

    def on_train_batch_end(self, trainer: pl.Trainer, *unused) -> None:
        self.lap(trainer, "optimiser")
        if trainer.global_step in (WARMUP, trainer.max_steps):
            synchronise(trainer.strategy.root_device)
            self.seconds = time.perf_counter() - self.seconds


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.backends.cudnn.benchmark = True
    report = {"arguments": vars(args), "machine": describe_machine(args.device), "networks": {}}
    for network in args.network:
        report["networks"][network] = measure(args, network)
    print_report(report)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", default=["10x1"], help="DEPTHxWIDTH of wide ResNets (paper: 28x10)")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=32, help="pairs in a batch (paper: 128)")
    parser.add_argument("--pairs", type=int, default=10_000, help="size of the data set")
    parser.add_argument("--steps", type=int, default=6, help=f"timed steps of every run, after {WARMUP} for warming up")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--workers", type=int, default=0, help="processes of the plain DataLoader")
    parser.add_argument("--precision", nargs="+", default=["32-true", "bf16-mixed"], help="Lightning's precisions")
    parser.add_argument("--compile", action="store_true", help="compile the networks")
    parser.add_argument("--json", metavar="OUT", help="write every number to this file")
    return parser.parse_args()


def measure(args: argparse.Namespace, network: str) -> dict:
    """Seconds per step of every variant, by repeat, and the shares of the parts."""
    pipelines = ("resident", "plain")
    variants = list(product((*pipelines, ALONE), args.precision))
    seconds = {" ".join(variant): [] for variant in variants}
    for repeat, (pipeline, precision) in product(range(args.repeats), variants):
        if pipeline == ALONE:
            taken = run_alone(args, network, precision)
        else:
            taken = fit(args, network, pipeline, precision, parts=False).seconds
        seconds[f"{pipeline} {precision}"].append(taken / args.steps)
        print(f"{network}, repeat {repeat + 1} of {args.repeats}, {pipeline} {precision}: "
              f"{taken / args.steps:.4f} s a step", file=sys.stderr)  # fmt: skip
    fits = product(pipelines, args.precision)
    parts = {" ".join(variant): fit(args, network, *variant, parts=True).parts for variant in fits}
    return {"flop_per_step": count_flop(args, network), "seconds_per_step": seconds, "seconds_of_parts": parts}


def build(network: str) -> WideResNet:
    depth, width = map(int, network.split("x"))
    return WideResNet(depth, width)


def fit(args: argparse.Namespace, network: str, pipeline: str, precision: str, parts: bool) -> Stopwatch:
    """Train for the warm-up and the timed steps."""
    watch = Stopwatch(parts)
    task = LitClassifier(build(network), channels_last=True, compile=args.compile)
    data = RandomPairs(args.pairs, args.image_size, args.batch, args.workers if pipeline == "plain" else None)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            accelerator="gpu" if args.device == "cuda" else "cpu", devices=1, precision=precision,
            max_steps=WARMUP + args.steps, callbacks=[watch], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(task, data)
    return watch


def run_alone(args: argparse.Namespace, network: str, precision: str) -> float:
    """Seconds of forwards and backwards on one resident batch, and nothing else: no training can be faster."""
    device = torch.device(args.device)
    net = build(network).to(device, memory_format=torch.channels_last).train()
    images = torch.rand(2 * args.batch, 3, args.image_size, args.image_size, device=device)
    images, labels = images.to(memory_format=torch.channels_last), torch.zeros(len(images), dtype=torch.long).to(device)
    started = 0.0
    for step in range(WARMUP + args.steps):
        if step == WARMUP:
            synchronise(device)
            started = time.perf_counter()
        net.zero_grad()
        with torch.autocast(args.device, torch.bfloat16, enabled=precision.startswith("bf16")):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
    synchronise(device)
    return time.perf_counter() - started


def count_flop(args: argparse.Namespace, network: str) -> float:
    """Floating point operations of one step: forward, and gradients of the weights and activations."""
    net = build(network).to("meta")
    images = torch.empty((2 * args.batch, 3, args.image_size, args.image_size), device="meta")
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(net(images), torch.empty(2 * args.batch, dtype=torch.long, device="meta")).backward()
    return counter.get_total_flops()


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def describe_machine(device: str) -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "lightning": pl.__version__,
    }


def print_report(report: dict) -> None:
    args = report["arguments"]
    print(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    size = args["image_size"]
    print(f"batches of {args['batch']} pairs {size}x{size}x3; an image is one half of a pair\n")
    print("| network | variant | images/s, median | range | of the network alone | GFLOP/s | " + " | ".join(PARTS) +
          " | 200 epochs of 50,000 pairs |\n|" + " --- |" * (7 + len(PARTS)))  # fmt: skip
    for network, found in report["networks"].items():
        medians = {variant: statistics.median(seconds) for variant, seconds in found["seconds_per_step"].items()}
        for variant, seconds in found["seconds_per_step"].items():
            images, step, parts = 2 * args["batch"], medians[variant], found["seconds_of_parts"].get(variant)
            shares = " | ".join(f"{parts[part] / sum(parts.values()):.0%}" if parts else "" for part in PARTS)
            alone = medians[f"{ALONE} {variant.split()[-1]}"]
            print(f"| WRN-{network.replace('x', '-')} | {variant} | {images / step:,.1f} | "
                  f"{images / max(seconds):,.1f}-{images / min(seconds):,.1f} | {alone / step:.0%} | "
                  f"{found['flop_per_step'] / step / 1e9:,.0f} | {shares} | "
                  f"{PAPER_PAIRS / args['batch'] * step / 3600:,.1f} h |")  # fmt: skip


if __name__ == "__main__":
    main()
