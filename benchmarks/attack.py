"""What attacks cost: gradients recomputed or kept, EoT batched or serial, slots or fixed batches, beside bare calls.

    python benchmarks/attack.py                              # about three minutes on two CPU cores
    python benchmarks/attack.py --only slots --slots 32 --images 256
    python benchmarks/attack.py --device cuda --ngf 128 --batch 16 --levels 4 16 64 232

One gradient of the cross-entropy through PurSAMERE and a small classifier, for several numbers of levels. Each cell
runs in a process of its own, so that its peak memory is its own. Weights are random: neither time nor memory depends on
them.

Slots: PGD through PurSAMERE at one level, where a share of the images falls within the first quarter of the steps, as
if fooled, and leaves. Fixed batches shrink as images leave; slots are filled again.

Overhead: an attack on a network of convolutions, in turns with the calls that it made, forward or forward and backward
with as many images each, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.attacks import APGD, PGD, AutoAttack, Square
from lit_pursamere.attacks.gradients import loss_gradient
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import NCSNv2Score, NoiseLevels
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.threat import ThreatModel


def main() -> None:
    args = parse_arguments()
    if args.cell:
        print(json.dumps(measure(args, json.loads(args.cell))))
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {args.threads or 'all'} threads"
    print(f"torch {torch.__version__}, {machine}, load {os.getloadavg()[0]:.1f}")
    print(f"ngf {args.ngf}, {args.batch} images 32x32x3, {args.draws} draws")
    sections = {"gradients": print_gradients, "eot": print_eot, "slots": print_slots, "overhead": print_overhead}
    for name in [args.only] if args.only else sections:
        sections[name](args)


def print_gradients(args: argparse.Namespace) -> None:
    print("\n| levels | view | s per gradient | peak memory above the process, MiB | relative l2 difference |")
    print("| --- | --- | --- | --- | --- |")
    for levels in args.levels:
        for view, recompute in (("bpda", True), ("first_order", True), ("exact", True), ("exact", False)):
            cell = run(args, {"levels": levels, "view": view, "recompute": recompute})
            name = view + ("" if view != "exact" else ", recomputed" if recompute else ", graph kept")
            print(f"| {levels} | {name} | {cell['seconds']:.2f} | {cell['memory']:.0f} | {cell['difference']:.1e} |")


def print_eot(args: argparse.Namespace) -> None:
    print("\n| EoT draws | s batched | s serial | serial / batched |\n| --- | --- | --- | --- |")
    for draws in args.eot:
        seconds = [run(args, {"levels": args.levels[0], "eot": draws, "serial": s})["seconds"] for s in (False, True)]
        print(f"| {draws} | {seconds[0]:.2f} | {seconds[1]:.2f} | {seconds[1] / seconds[0]:.2f} |")


def print_slots(args: argparse.Namespace) -> None:
    print(f"\n{args.images} images, {args.steps} steps, batches of {args.slots}\n")
    print("| fall early | calls, fixed batches | calls, slots | s, fixed batches | s, slots | fixed / slots |")
    print("| --- | --- | --- | --- | --- | --- |")
    for share in (0.2, 0.5, 0.8):
        fixed, slots = (run(args, {"share": share, "slots": slots}) for slots in (False, True))
        ratio = fixed["seconds"] / slots["seconds"]
        print(f"| {share:.0%} | {fixed['calls']} | {slots['calls']} | {fixed['seconds']:.2f} | "
              f"{slots['seconds']:.2f} | {ratio:.2f} |")  # fmt: skip


def print_overhead(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    threat = ThreatModel("linf", 0.01)
    attacks = {
        f"PGD, {args.steps} steps": PGD(threat, steps=args.steps),
        f"APGD, {args.steps} steps": APGD(threat, steps=args.steps),
        f"Square, {4 * args.steps} queries": Square(threat, queries=4 * args.steps),
        "AutoAttack, 5 steps, 40 queries": AutoAttack(threat, steps=5, queries=40),
    }
    network = Recorded().to(args.device)
    x = torch.rand((args.images, 3, 32, 32), generator=torch.Generator().manual_seed(1)).to(args.device)
    with torch.no_grad():
        y = network(x).argmax(1)
    print(f"\n{args.images} images 32x32x3; median and range of {args.repeats} ratios in turns\n")
    print("| attack | calls | with gradient | ms per call | s, attack | s, bare calls | attack / bare calls |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    clock = time.process_time if args.device == "cpu" else time.perf_counter  # other programs disturb that little
    for name, attack in attacks.items():
        if args.attacks and name.split(",")[0] not in args.attacks:
            continue
        network.calls.clear()
        attack(network, x, y)
        calls = list(network.calls)
        bare, whole = [], []
        for _ in range(args.repeats):
            bare.append(once(args, lambda calls=calls: replay(network, x, calls), clock))
            whole.append(once(args, lambda attack=attack: attack(network, x, y), clock))
        ratios = [a / b for a, b in zip(whole, bare, strict=True)]
        gradients = sum(with_gradient for _, with_gradient in calls)
        print(f"| {name} | {len(calls)} | {gradients} | {1000 * statistics.median(bare) / len(calls):.0f} | "
              f"{statistics.median(whole):.2f} | {statistics.median(bare):.2f} | {statistics.median(ratios):.3f} "
              f"({min(ratios):.3f}-{max(ratios):.3f}) |", flush=True)  # fmt: skip


class Recorded(nn.Module):
    """Five convolutions and a linear layer, and how often they were asked: images, and whether for a gradient."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        inner = [layer for _ in range(4) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), *inner, nn.AvgPool2d(8), nn.Flatten())
        self.head = nn.Linear(16 * width, 10)
        self.calls: list[tuple[int, bool]] = []
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(x), torch.is_grad_enabled() and x.requires_grad))
        return self.head(self.body(x))


def replay(network: nn.Module, x: torch.Tensor, calls: list[tuple[int, bool]]) -> None:
    for count, with_gradient in calls:
        z = x[:count].clone().requires_grad_(with_gradient)
        with torch.set_grad_enabled(with_gradient):
            logits = network(z)
        if with_gradient:
            torch.autograd.grad(logits.sum(), z)


def once(args: argparse.Namespace, action, clock=time.perf_counter) -> float:
    """Seconds."""
    started = clock()
    action()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ngf", type=int, default=8, help="width of the NCSNv2 network (paper: 128)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--draws", type=int, default=2, help="noise draws of PurSAMERE")
    parser.add_argument("--levels", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--eot", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--images", type=int, default=128, help="images attacked in slots, or for the overhead")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20, help="steps of the attack in slots, or for the overhead")
    parser.add_argument("--size", type=int, default=8, help="height and width of the images attacked in slots")
    parser.add_argument("--only", choices=["gradients", "eot", "slots", "overhead"], help="one section instead of all")
    parser.add_argument("--attacks", nargs="+", help="of the overhead: PGD, APGD, Square, AutoAttack")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    return parser.parse_args()


def run(args: argparse.Namespace, cell: dict) -> dict:
    """Measure one cell in a fresh process."""
    command = [sys.executable, __file__, *sys.argv[1:], "--cell", json.dumps(cell)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def build(args: argparse.Namespace, levels: int, seed: int | str) -> Defense:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2), nn.SiLU(), nn.Flatten(), nn.Linear(16 * 15 * 15, 10))
    score_model = NCSNv2Score(ngf=args.ngf)
    purifier = PurSAMERE(score_model, draws=args.draws, sigmas=NoiseLevels(1.0, 0.02, levels), seed=seed)
    return Defense(purifier, classifier).to(args.device)


def measure(args: argparse.Namespace, cell: dict) -> dict:
    if args.threads:
        torch.set_num_threads(args.threads)
    if "slots" in cell:
        return measure_slots(args, cell)
    eot = cell.get("eot")
    defense = build(args, cell["levels"], 0 if eot is None else "fresh")
    generator = torch.Generator().manual_seed(1)
    x = torch.rand((args.batch, 3, 32, 32), generator=generator).to(args.device)
    y = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    if eot is not None:
        view = defense.view("bpda")
        if cell["serial"]:
            return {"seconds": timed(args, lambda: [loss_gradient(view, x, y, 1) for _ in range(eot)])}
        return {"seconds": timed(args, lambda: loss_gradient(view, x, y, eot))}
    defense.purifier.recompute = cell["recompute"]
    view = defense.view(cell["view"])

    def gradient() -> torch.Tensor:
        z = x.clone().requires_grad_()
        return torch.autograd.grad(F.cross_entropy(view(z), y, reduction="sum"), z)[0]

    with torch.no_grad():
        defense.purifier.score_model.predict_noise(x.repeat(args.draws, 1, 1, 1), 0.5)  # warm
    before = memory(args)
    found = gradient()
    peak = memory(args) - before
    defense.purifier.recompute = False
    difference = 0.0 if not cell["recompute"] else float((gradient() - found).norm() / found.norm())
    defense.purifier.recompute = cell["recompute"]
    return {"seconds": timed(args, gradient), "memory": peak, "difference": difference}


class Scripted(PGD):
    """PGD on the first class that counts an image as fooled when the script, its label, says so."""

    def init(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return super().init(x, y) | {"number": torch.zeros_like(y)}

    def step(self, view, x, y, state):
        new, _ = super().step(view, x, torch.zeros_like(y), state)
        return new | {"number": state["number"] + 1}, state["number"] == y


def measure_slots(args: argparse.Namespace, cell: dict) -> dict:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(),
                               nn.Linear(16 * (args.size // 2) ** 2, 10))  # fmt: skip
    purifier = PurSAMERE(NCSNv2Score(ngf=args.ngf, image_size=args.size), draws=args.draws, sigmas=[0.1])
    defense = Defense(purifier, classifier).to(args.device)
    x = torch.rand((args.images, 3, args.size, args.size)).to(args.device)
    early = torch.rand(args.images) < cell["share"]
    y = torch.where(early, torch.randint(max(1, args.steps // 4), (args.images,)), args.steps).to(args.device)
    attack = Scripted(ThreatModel("linf", 8 / 255), steps=args.steps, stop_on_success=True)
    view = defense.view("bpda")
    calls = []
    purifier.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))

    def attack_all() -> None:
        calls.clear()
        if cell["slots"]:
            list(attack.in_slots(view, x, y, args.slots))
        else:
            for images, labels in zip(x.split(args.slots), y.split(args.slots), strict=True):
                attack(view, images, labels)

    return {"seconds": timed(args, attack_all), "calls": len(calls)}


def timed(args: argparse.Namespace, action) -> float:
    """Shortest of the repeats, in seconds."""
    return min(once(args, action) for _ in range(args.repeats))


def memory(args: argparse.Namespace) -> float:
    """Peak memory of the process so far, MiB."""
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
