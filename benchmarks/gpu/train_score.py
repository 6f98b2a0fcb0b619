"""Train a score model of CIFAR-10 for as many minutes as a GPU is there, and keep it safe every minute.

    python benchmarks/gpu/train_score.py --minutes 9
    python benchmarks/gpu/train_score.py --minutes 9 --resume runs/gpu/pack/state/state.safetensors

It is the training of configs/cifar10/score_denoiser.yaml, but the time is what is fixed here, not the steps: the
learning rate falls to 0 towards the time limit, and a plain loop looks at the clock. Loss, noise levels, moving average
and PSNR are the package's own. In OUT are afterwards, the first three renewed every `--every` seconds:

| score.safetensors | averaged weights in float16, for EDMScore(checkpoint=...)                            |
| state.safetensors | the weights themselves; with the other beside it, what `--resume` goes on from       |
| train_score.json  | PSNR against time, images/s, memory, faults                                          |
| samples.png       | 64 images made of noise by the averaged weights                                      |
| denoised.png      | images held out; below them, noisy and denoised, for every noise level of the table  |
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from packed import packed_images, toy_images
from session import Session, arguments
from torch import Tensor
from torchvision.utils import save_image

from lit_pursamere.data.resident import to_float
from lit_pursamere.diffusion import EDMScore, LogUniformObjective, psnr
from lit_pursamere.seeding import generator, reseed
from lit_pursamere.tasks import LitScoreModel
from lit_pursamere.tasks.training import average, cosine, rise
from lit_pursamere.weights import inspect_weights, load_weights, model_card
from lit_pursamere.weights.saving import write_tensors

COMMON = {"num_blocks": 1, "attn_resolutions": [], "augment_dim": 0, "dropout": 0.0}
# Network, and its learning rate. `small` is that of configs/cifar10/score_denoiser.yaml.
NETWORKS = {
    "small": ({"model_channels": 32, "channel_mult": [1, 2, 2], "image_size": 32, **COMMON}, 2e-3),  # 1,227,011
    "large": ({"model_channels": 64, "channel_mult": [1, 2, 2], "image_size": 32, **COMMON}, 1e-3),  # 4,889,091
    "toy": ({"model_channels": 8, "channel_mult": [1, 1], "image_size": 16, **COMMON}, 2e-3),
}
FFDNET = {8: 35.6, 15: 31.9, 25: 29.1, 50: 25.3, 75: 23.3}  # dB by 255 sigma, measured on the CIFAR-10 test set
LOOK = 10  # steps between two looks at the loss, each of which waits for the device
RESERVE = 20.0  # seconds for the last evaluation, the last export and the pictures


def main(args: Sequence[str] | None = None) -> dict:
    """Train, and return the report."""
    options = parse(args)
    session = Session("train_score", options)
    run = Run(session, options)
    if session.step("prepare", run.prepare) is not None:
        # What takes longer to compile is not worth it; broken off or failed, it is noted as a fault.
        if options.compile and session.step("compile", run.compile, limit=session.left() / 3) is None:
            run.loss = run.task.loss
        session.step("train", run.train)
        session.step("finish", run.finish)
    print(run.table(), file=sys.stderr)
    return session.finish()


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments("Train a score model of CIFAR-10 for a fixed time.", 9.0)
    parser.add_argument("--network", choices=("small", "large"), default="large", help="1.2 or 4.9 million parameters")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="state.safetensors with its score.safetensors")
    parser.add_argument("--batch", type=int, help="images a step (default 512; toy 8)")
    parser.add_argument("--steps", type=int, help="end after so many steps at the latest (default: by time; toy 12)")
    parser.add_argument("--lr", type=float, help="AdamW's learning rate (default: by network)")
    parser.add_argument("--warmup", type=int, help="steps over which it rises (default 300; toy 3)")
    parser.add_argument("--ema-decay", type=float, default=0.9995, help="of the moving average, per step")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two evaluations and exports")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="train without torch.compile")
    options = parser.parse_args(args)
    options.batch = options.batch or (8 if options.toy else 512)
    options.steps = options.steps or (12 if options.toy else None)
    options.warmup = (3 if options.toy else 300) if options.warmup is None else options.warmup
    return options


class Run:
    """One training: `prepare`, `compile` if wanted, `train`, `finish`.

    Args:
        session: Knows the time and the device, and keeps the report.
        options: What `parse` returned.

    `task` holds the model that is trained, `averaged` its moving average. `before` counts what earlier runs did.
    """

    def __init__(self, session: Session, options: argparse.Namespace) -> None:
        self.session, self.options, self.device, self.clock = session, options, session.device, session.clock
        self.network, lr = NETWORKS["toy" if options.toy else options.network]
        self.lr = options.lr or lr
        self.before = {"steps": 0, "images": 0, "seconds": 0.0}
        self.steps, self.timed_steps, self.busy, self.last_loss, self.compiled = 0, 0, 0.0, None, False
        self.began = self.kept = self.clock()
        self.until = max(session.end - RESERVE, self.began + session.left() / 2)
        self.rows: list[dict] = []
        session.report["psnr"], session.report["psnr_ffdnet_test_set"] = self.rows, FFDNET

    def prepare(self) -> dict[str, object]:
        """Read the images, build the model, and load the state to go on from."""
        (train, *_), (held_out, *_) = self.read_images()
        torch.backends.cudnn.benchmark = True
        reseed(self.options.seed)
        model = EDMScore(**self.network)
        self.averaged = copy.deepcopy(model).requires_grad_(False).to(self.device)
        if self.options.resume:
            self.resume(model, self.options.resume)
        self.task = LitScoreModel(model, LogUniformObjective(sigma_max=1.0, sigma_min=0.01)).to(self.device)
        self.loss, self.weights = self.task.loss, list(model.parameters())
        self.held_out = to_float(held_out.to(self.device))
        reseed(self.options.seed, self.before["images"])  # not once more the noise of the run before
        self.batches = shuffled(train.to(self.device), self.options.batch, self.options.seed + self.before["images"])
        self.optimizer = torch.optim.AdamW(self.weights, self.lr, weight_decay=0.0, fused=self.device.type == "cuda")
        parameters = sum(weight.numel() for weight in self.weights)
        return {"network": self.network, "parameters": parameters, "train": len(train), "held_out": len(held_out)}

    def read_images(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Images to train on and images held out, with their labels and positions."""
        if self.options.toy:
            size = self.network["image_size"]
            return toy_images(40, seed=0, size=size), toy_images(8, seed=1, size=size)
        return packed_images(self.options.pack, "train"), packed_images(self.options.pack, "val")

    def resume(self, model: EDMScore, state: Path) -> None:
        load_weights(model, state)
        load_weights(self.averaged, state.with_name("score.safetensors"))
        card = inspect_weights(state).metadata
        self.before = {"steps": int(card["steps"]), "images": int(card["images"]), "seconds": float(card["seconds"])}

    def compile(self) -> dict[str, float]:
        """Compile the loss and its gradient, by a first step."""
        started = self.clock()
        # On the CPU, where C++ would be compiled for minutes, the graphs are made and then run as they are.
        self.loss = torch.compile(self.task.loss, backend="inductor" if self.device.type == "cuda" else "aot_eager")
        self.step()
        self.compiled = True
        return {"seconds": round(self.clock() - started, 1)}

    def train(self) -> dict[str, object]:
        """Step until the time, or the number of steps, is over; look, evaluate and export now and then.

        Raises:
            FloatingPointError: If the loss is no number any more. What was exported before stays.
        """
        self.began = self.kept = self.clock()
        while self.over() < 1:
            self.look()
            if not math.isfinite(self.last_loss):
                raise FloatingPointError(f"the loss is {self.last_loss} at step {self.steps}")
            if self.clock() - self.kept >= self.options.every:
                self.keep()
        return self.facts()

    def over(self) -> float:
        """Fraction of the training that is over, by the clock or by the number of steps, whichever is further."""
        passed = (self.clock() - self.began) / max(self.until - self.began, 1e-9)
        return max(passed, self.steps / self.options.steps if self.options.steps else 0.0)

    def look(self) -> None:
        """Some steps, and one look at what they came to."""
        started, losses = self.clock(), []
        while len(losses) < LOOK and (not losses or self.over() < 1):
            losses.append(self.step())
        self.last_loss = torch.stack(losses).mean().item()
        self.busy, self.timed_steps = self.busy + self.clock() - started, self.timed_steps + len(losses)
        self.session.report["training"] = self.facts()

    def step(self) -> Tensor:
        """One step of the optimiser and of the moving average; returns the loss, on the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * rise(self.steps, self.options.warmup) * cosine(self.over(), 0, 1)
        x = next(self.batches)
        sigma, noise, _ = self.task.draw(x)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss = self.loss(x, sigma, noise)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.steps += 1
        updates = self.before["steps"] + self.steps
        average(self.options.ema_decay, True, list(self.averaged.parameters()), self.weights, updates)
        return loss.detach()

    def done(self) -> dict[str, float]:
        """Steps, images and seconds of training, earlier runs included."""
        seconds = round(self.clock() - self.began, 1)
        now = {"steps": self.steps, "images": self.steps * self.options.batch, "seconds": seconds}
        return {name: self.before[name] + value for name, value in now.items()}

    def facts(self) -> dict[str, object]:
        """What this run did so far."""
        cuda = self.device.type == "cuda"
        return {
            **self.done(),
            "images/s": round(self.timed_steps * self.options.batch / max(self.busy, 1e-9), 1),
            "loss": self.last_loss,
            "lr": self.lr,
            "compiled": self.compiled,
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if cuda else None,
        }

    def keep(self) -> dict[str, object]:
        """Evaluate the averaged weights, and export them and the state to go on from.

        Raises:
            FloatingPointError: If weights are no numbers any more; the files stay what they were.
        """
        averaged, raw = in_float16(self.averaged), in_float16(self.task.score_model)
        row = {**self.done(), "psnr": self.psnr()}
        self.rows.append(row)
        print(self.table().splitlines()[-2], file=sys.stderr, flush=True)
        card = self.card(row)
        write_tensors(averaged, self.session.out / "score.safetensors", card | {"weights": "ema"})
        write_tensors(raw, self.session.out / "state.safetensors", card | {"weights": "raw"})
        self.session.save()
        self.kept = self.clock()
        return row

    @torch.no_grad()
    def psnr(self) -> dict[int, float]:
        """PSNR in dB of the averaged weights on the images held out, by 255 sigma; always under the same noise."""
        found = {}
        for level in FFDNET:
            noise = torch.randn(self.held_out.shape, generator=generator(0, level)).to(self.device)
            found[level] = round(psnr(self.averaged, self.held_out, level / 255, noise).mean().item(), 3)
        return found

    def card(self, row: dict) -> dict[str, str]:
        """What a user of the weights must know."""
        done = {name: value for name, value in row.items() if name != "psnr"}
        return model_card(
            data="toy" if self.options.toy else "cifar10",
            score_model=type(self.averaged).__name__,
            network=json.dumps(self.network),
            objective=repr(self.task.objective),
            lr=self.lr,
            batch_size=self.options.batch,
            ema_decay=self.options.ema_decay,
            precision="bf16-mixed",
            seed=self.options.seed,
            **done,
            **{f"psnr_{level}": value for level, value in row["psnr"].items()},
        )

    def finish(self) -> dict[str, object]:
        """The last evaluation and export, and pictures: samples, and images held out before and after denoising."""
        row = self.keep()
        size = self.network["image_size"]
        draws = torch.Generator(self.device).manual_seed(0)
        with torch.no_grad():
            samples = self.task.objective.sample(self.averaged, (64, 3, size, size), draws)
            save_image(samples.clamp(0, 1), self.session.out / "samples.png", nrow=8)
            save_image(torch.cat(self.denoised()).clamp(0, 1), self.session.out / "denoised.png", nrow=8)
        return row

    def denoised(self) -> list[Tensor]:
        """Eight images held out; then for every noise level the noisy and the denoised ones."""
        x = self.held_out[:8]
        rows = [x]
        for level in FFDNET:
            y = x + level / 255 * torch.randn(x.shape, generator=generator(0, level)).to(self.device)
            rows += [y, self.averaged.denoise(y, level / 255)]
        return rows

    def table(self) -> str:
        """PSNR against time, with FFDNet's below."""
        head = "| images | seconds | " + " | ".join(f"{level}/255" for level in FFDNET) + " |"
        lines = [head, "| --- " * (2 + len(FFDNET)) + "|"]
        for row in self.rows:
            told = (f"{value:.2f}" for value in row["psnr"].values())
            lines.append(f"| {row['images']:,} | {row['seconds']} | " + " | ".join(told) + " |")
        reference = " | ".join(f"{value:.1f}" for value in FFDNET.values())
        return "\n".join([*lines, f"| FFDNet, test set | | {reference} |"])


def shuffled(images: Tensor, batch: int, seed: int) -> Iterator[Tensor]:
    """Batches (B, C, H, W) in [0, 1] of images (N, C, H, W) uint8, shuffled and mirrored at random on their device.

    No number crosses from the CPU, which would wait for the device; that is what `ResidentLoader` does, for the sake
    of batches that do not depend on the device.
    """
    draws = torch.Generator(images.device).manual_seed(seed)
    batch = min(batch, len(images))
    while True:
        order = torch.randperm(len(images), generator=draws, device=images.device)
        for start in range(0, len(images) - batch + 1, batch):
            x = to_float(images[order[start : start + batch]])
            mirrored = torch.rand(batch, 1, 1, 1, generator=draws, device=images.device) < 0.5
            yield torch.where(mirrored, x.flip(3), x).contiguous(memory_format=torch.channels_last)


def in_float16(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's tensors by name, in half the memory.

    Raises:
        FloatingPointError: If one is not finite.
    """
    tensors = {name: tensor.detach().half().cpu() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise FloatingPointError(f"{name} is not finite; the last export is kept")
    return tensors


if __name__ == "__main__":
    main()
