"""What gradients of a defence cost: recomputed against kept graphs, and batched against serial EoT.

    python benchmarks/attack.py                              # about two minutes on two CPU cores
    python benchmarks/attack.py --device cuda --ngf 128 --batch 16 --levels 4 16 64 232

One gradient of the cross-entropy through PurSAMERE and a small classifier, for several numbers of levels. Each cell
runs in a process of its own, so that its peak memory is its own. Weights are random: neither time nor memory depends on
them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.attacks.pgd import loss_gradient
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import NCSNv2Score, NoiseLevels
from lit_pursamere.purifiers import PurSAMERE


def main() -> None:
    args = parse_arguments()
    if args.cell:
        print(json.dumps(measure(args, json.loads(args.cell))))
        return
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {args.threads or 'all'} threads"
    print(f"torch {torch.__version__}, {machine}, load {os.getloadavg()[0]:.1f}")
    print(f"ngf {args.ngf}, {args.batch} images 32x32x3, {args.draws} draws\n")
    print("| levels | view | s per gradient | peak memory above the process, MiB | relative l2 difference |")
    print("| --- | --- | --- | --- | --- |")
    for levels in args.levels:
        for view, recompute in (("bpda", True), ("first_order", True), ("exact", True), ("exact", False)):
            cell = run(args, {"levels": levels, "view": view, "recompute": recompute})
            name = view + ("" if view != "exact" else ", recomputed" if recompute else ", graph kept")
            print(f"| {levels} | {name} | {cell['seconds']:.2f} | {cell['memory']:.0f} | {cell['difference']:.1e} |")
    print("\n| EoT draws | s batched | s serial | serial / batched |\n| --- | --- | --- | --- |")
    for draws in args.eot:
        seconds = [run(args, {"levels": args.levels[0], "eot": draws, "serial": s})["seconds"] for s in (False, True)]
        print(f"| {draws} | {seconds[0]:.2f} | {seconds[1]:.2f} | {seconds[1] / seconds[0]:.2f} |")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ngf", type=int, default=8, help="width of the NCSNv2 network (paper: 128)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--draws", type=int, default=2, help="noise draws of PurSAMERE")
    parser.add_argument("--levels", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--eot", type=int, nargs="+", default=[4, 16])
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
    score_model = NCSNv2Score(args.ngf)
    purifier = PurSAMERE(score_model, draws=args.draws, sigmas=NoiseLevels(1.0, 0.02, levels), seed=seed)
    return Defense(purifier, classifier).to(args.device)


def measure(args: argparse.Namespace, cell: dict) -> dict:
    if args.threads:
        torch.set_num_threads(args.threads)
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


def timed(args: argparse.Namespace, action) -> float:
    """Shortest of the repeats, in seconds."""
    shortest = float("inf")
    for _ in range(args.repeats):
        started = time.perf_counter()
        action()
        if args.device == "cuda":
            torch.cuda.synchronize()
        shortest = min(shortest, time.perf_counter() - started)
    return shortest


def memory(args: argparse.Namespace) -> float:
    """Peak memory of the process so far, MiB."""
    if args.device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
