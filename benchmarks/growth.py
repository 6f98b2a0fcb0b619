"""How the time of a purification and of an attack grows, one factor at a time, and with what power.

    python -m benchmarks.growth --json growth.json --plot docs/figures/growth.png    # three minutes on two CPU cores
    python -m benchmarks.growth --processes 1 2 4          # also: `predict` by several processes, as a user starts it

Everything is as in `BASE` but for the factor that grows. A power of 1 is time in proportion; what stays the same
whatever grows (starts, Python) pulls it below. Weights are random: time does not depend on them. Seconds are those of
the CPU, so that other programs disturb them less.

Processes: the same images by 1, 2, 4 processes of one thread each, less the time of a run of a tenth of the images, so
that imports do not count; parts and checksums are compared. More processes than cores can only lose.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_pursamere.attacks import PGD
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import NCSNv2Score, NoiseLevels
from lit_pursamere.markdown import markdown_table
from lit_pursamere.networks import WideResNet
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.threat import Pixels, ThreatModel

BASE = {"images": 4, "levels": 4, "draws": 2, "eot": 1, "classes": 10, "steps": 2}
BATCH = 20  # images, of a `predict` by several processes
GROWS = {
    ("purify", "images"): (1, 2, 4, 8, 16, 32),
    ("purify", "levels"): (1, 2, 4, 8, 16, 32),
    ("purify", "draws"): (1, 2, 4, 8, 16),
    ("bpda", "steps"): (1, 2, 4, 8),
    ("bpda", "eot"): (1, 2, 4, 8),
    ("bpda", "classes"): (10, 100, 1000),
    ("exact", "levels"): (1, 2, 4, 8),
    ("exact", "images"): (1, 2, 4, 8),
}


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    machine = f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, {args.threads} threads"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}; base: {BASE}")
    report: dict[str, Any] = {"machine": machine, "base": BASE, "grows": []}
    for (work, factor), values in GROWS.items():
        seconds = timed({value: job(work, {**BASE, factor: value}) for value in values}, args.repeats)
        report["grows"].append({"work": work, "factor": factor, "seconds": seconds})
        print(".", end="", file=sys.stderr, flush=True)
    print("\n" + table(report["grows"]))
    if args.processes:
        report["processes"] = by_processes(args.processes, args.images)
        print("\n" + process_table(report["processes"]))
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    if args.plot:
        draw(report["grows"], Path(args.plot))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="*", default=[], help="how many share a `predict`")
    parser.add_argument("--images", type=int, default=800, help="that such a `predict` purifies")
    parser.add_argument("--json", metavar="OUT")
    parser.add_argument("--plot", metavar="PNG")
    args = parser.parse_args()
    if args.images < (least := 10 * BATCH * max(args.processes, default=0)):  # a tenth of them still feeds everybody
        parser.error(f"--images must be at least {least} for {max(args.processes)} processes; got {args.images}")
    return args


def job(work: str, settings: dict[str, int]) -> Callable[[], object]:
    """A purification, or an attack on one view, with these settings."""
    torch.manual_seed(0)
    score_model = NCSNv2Score(ngf=8, channels=3, image_size=16).to(memory_format=torch.channels_last)
    purifier = PurSAMERE(score_model, draws=settings["draws"], sigmas=NoiseLevels(1.0, 0.02, settings["levels"]))
    x = torch.rand(settings["images"], 3, 16, 16)
    if work == "purify":
        return lambda: purifier(x)
    y = torch.zeros(len(x), dtype=torch.long)
    view: Any = work
    classifier = WideResNet(depth=10, width=1, num_classes=settings["classes"]).eval()
    defense = Defense(purifier.under("fresh") if settings["eot"] > 1 else purifier, classifier)
    attack = PGD(ThreatModel("linf", Pixels(8 / 255)), view=view, steps=settings["steps"], eot=settings["eot"])
    return lambda: attack(defense.view(view), x, y)


def timed(jobs: dict[int, Callable[[], object]], repeats: int) -> dict[int, list[float]]:
    """Seconds of CPU of every job in every repetition, after one for warming up; the jobs take turns."""
    found: dict[int, list[float]] = {value: [] for value in jobs}
    for repeat in range(repeats + 1):
        for value, run in jobs.items():
            began = time.process_time()
            run()
            if repeat:
                found[value].append(time.process_time() - began)
    return found


def medians(seconds: dict[int, list[float]]) -> dict[int, float]:
    return {value: statistics.median(times) for value, times in seconds.items()}


def power(seconds: dict[int, list[float]]) -> float:
    """Slope of the logarithm of the median seconds over that of the factor."""
    values, times = zip(*medians(seconds).items(), strict=True)
    return float(np.polyfit(np.log(values), np.log(times), 1)[0])


def table(grows: list[dict[str, Any]]) -> str:
    rows = []
    for line in grows:
        middle, spread = medians(line["seconds"]), max(max(t) / min(t) for t in line["seconds"].values())
        told = ", ".join(f"{value}: {seconds:.3g}" for value, seconds in middle.items())
        rows.append([line["work"], line["factor"], told, f"{power(line['seconds']):.2f}", f"{spread:.2f}"])
    return markdown_table(["work", "grows", "CPU s, median", "power", "slowest / fastest repeat"], rows)


def draw(grows: list[dict[str, Any]], file: Path) -> None:
    """A panel per factor: seconds over it, both logarithmic, beside time in proportion."""
    from matplotlib.figure import Figure

    from lit_pursamere.report.drawing import save_figure

    figure = Figure(figsize=(11, 5.2), layout="constrained")
    for axes, line in zip(figure.subplots(2, 4).flat, grows, strict=True):
        values, times = zip(*medians(line["seconds"]).items(), strict=True)
        axes.loglog(values, [times[0] * value / values[0] for value in values], ":", color="0.6", label="in proportion")
        axes.loglog(values, times, "o-", color="C0", label=f"power {power(line['seconds']):.2f}")
        axes.set(title=line["work"], xlabel=line["factor"], ylabel="CPU s")
        axes.set_xticks(values, map(str, values))
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="small")
    save_figure(figure, file)


def by_processes(processes: list[int], images: int) -> list[dict[str, Any]]:
    """`predict` of the digits by so many processes: seconds of the images beyond a tenth of them, and the set."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for count in processes:
            output = Path(folder) / f"set-{count}"
            short = predict(Path(folder) / f"short-{count}", count, images // 10)
            seconds = predict(output, count, images) - short
            found.append({"processes": count, "seconds": seconds, "digest": digest_of(output), "images": images})
    return found


def predict(output: Path, processes: int, images: int) -> float:
    command = [
        sys.executable, "-m", "lit_pursamere", "predict", "--config", "configs/digits/purify.yaml",
        f"--model.output={output}", f"--trainer.devices={processes}", f"--data.train_size={images}",
        f"--data.eval_batch_size={BATCH}", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return time.perf_counter() - began


def digest_of(folder: Path) -> str:
    """Of every part of a set, whatever process wrote it."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("part-*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def process_table(found: list[dict[str, Any]]) -> str:
    alone = found[0]["seconds"] * found[0]["processes"]
    rows = [
        [
            line["processes"], f"{line['seconds']:.1f}", f"{alone / line['seconds']:.2f}",
            f"{alone / line['seconds'] / min(line['processes'], os.cpu_count() or 1):.0%}",
            "yes" if line["digest"] == found[0]["digest"] else "NO",
        ]
        for line in found
    ]  # fmt: skip
    return markdown_table(["processes", "s", "speed-up", "of what the cores bear", "the same bytes"], rows)


if __name__ == "__main__":
    main()
