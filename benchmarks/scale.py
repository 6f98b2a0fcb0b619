"""A simulation on paper: what purifying ImageNet, or attacking 10,000 images, asks of many machines.

    python -m benchmarks.scale                 # FLOP and hours, by the package's own networks, nothing is run
    python -m benchmarks.scale --folders DIR   # also: folders of that many parts and rows, made up and clocked
    python -m benchmarks.scale --reading DIR   # also: images/s of purified sets of 50,000 and 1,281,167 images (8 GB)

FLOP are counted on torch's meta device. Hours assume that every GPU reaches `--rate` TFLOP/s, which is an assumption
and no measurement. Folders are real ones, written by the package, of images of one pixel and rows of a real run's form.
Sets that are read hold images 32x32x3 in float16, which the operating system keeps in memory where it has room: what is
clocked is what the package adds to a disk, in one thread of one process.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lit_pursamere.data import PurifiedSet
from lit_pursamere.data.parts import write_part
from lit_pursamere.markdown import markdown_table
from lit_pursamere.networks import NCSNv2, WideResNet
from lit_pursamere.store.records import Records, read_rows

IMAGENET, TEST = 1_281_167, 10_000
LEVELS, DRAWS, PART, SLOTS = 232, 4, 128, 50  # of the paper; images of a part, and of a batch under attack
BATCHES = 100  # that are read
GPUS = (1, 8, 64, 256)
SIZES = (32, 64, 224)
TERA, HOUR = 1e12, 3600.0
ROW = {
    "dataset": "imagenet", "prediction_clean": 3, "prediction_last": 3, "prediction_any": 7, "votes_last": 1,
    "votes_any": 0, "evaluations": 1, "margin_last": 1.2345678, "margin_any": -0.1234567, "loss_last": 0.3456789,
    "loss_any": 1.4567891, "first_success": 7, "linf": 0.0156863, "l2": 1.7345678, "l1": 80.123456, "moved": 1.9345678,
    "seconds": 61.234567, "seed": 0, "label": 3, "stored": None,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=400.0, help="TFLOP/s that a GPU is assumed to reach")
    parser.add_argument("--folders", metavar="DIR", help="where to make up folders; they are removed again")
    parser.add_argument("--reading", metavar="DIR", help="where to make up sets to read; they are removed again")
    args = parser.parse_args()
    counted = {size: flop_of(size) for size in SIZES}
    print(f"\nTFLOP of an image\n\n{flop_table(counted)}")
    print(f"\nHours if a GPU reaches {args.rate:g} TFLOP/s\n\n{hours_table(counted, args.rate)}")
    print(f"\nBytes and files\n\n{bytes_table(counted, args.rate)}")
    if args.folders:
        with tempfile.TemporaryDirectory(dir=args.folders) as folder:
            print(f"\nFolders of that size, seconds on this machine\n\n{folder_table(Path(folder))}")
    if args.reading:
        with tempfile.TemporaryDirectory(dir=args.reading) as folder:
            print(f"\nRandom batches of {PART}, images/s on this machine\n\n{reading_table(Path(folder))}")


def flop_of(size: int) -> dict[str, float]:
    """FLOP of one image of size x size pixels: a call of the score model with its gradient, and a classifier's step."""
    with torch.device("meta"):
        score, classifier = NCSNv2(ngf=128, image_size=size).requires_grad_(False), WideResNet(depth=70, width=16)
        x = torch.zeros(1, 3, size, size, requires_grad=True)
    return {"call": flop_with_gradient(score, x), "step": flop_with_gradient(classifier, x.detach())}


def flop_with_gradient(network: nn.Module, x: Tensor) -> float:
    with FlopCounterMode(display=False) as count:
        network(x).sum().backward()
    return count.get_total_flops()


PURIFY = "purify ImageNet's training set, no SAM"


def jobs(counted: dict[str, float]) -> dict[str, tuple[float, int, int]]:
    """FLOP of an image, how many images, and how many of them a batch has, by job."""
    purified = LEVELS * DRAWS * counted["call"]
    return {
        PURIFY: (purified, IMAGENET, PART),
        f"BPDA20 on {TEST:,} images, SAM": (21 * 2 * purified, TEST, SLOTS),
        # a gradient of a gradient recomputes the level (1), differentiates it and its gradient (2 more)
        f"exact20 on {TEST:,} images, SAM": ((1 + 20 * 3) * 2 * purified, TEST, SLOTS),
        "WRN-70-16 on pairs, an epoch": (2 * counted["step"], IMAGENET, PART),
    }


def flop_table(counted: dict[int, dict[str, float]]) -> str:
    names = list(jobs(counted[SIZES[0]]))
    columns = [jobs(counted[size]) for size in SIZES]
    rows = [
        [
            "score model (NCSNv2, ngf 128), a call with its gradient",
            *(f"{counted[s]['call'] / TERA:.3g}" for s in SIZES),
        ]
    ]
    rows += [[name, *(f"{column[name][0] / TERA:.3g}" for column in columns)] for name in names]
    return markdown_table(["", *(f"{size} pixels" for size in SIZES)], rows)


def hours_table(counted: dict[int, dict[str, float]], rate: float) -> str:
    rows = []
    for size in SIZES[1:]:
        for name, (flop, images, batch) in jobs(counted[size]).items():
            alone = flop * images / (rate * TERA) / HOUR
            rows.append([f"{name}, {size} pixels", *(f"{alone / rounds(images, gpus, batch):,.3g}" for gpus in GPUS)])
    return markdown_table(["", *(f"{gpus} GPU" for gpus in GPUS)], rows)


def rounds(images: int, gpus: int, batch: int) -> float:
    """How many times as fast so many GPUs are, if the one with the most batches ends last."""
    batches = math.ceil(images / batch)
    return batches / math.ceil(batches / gpus)


def bytes_table(counted: dict[int, dict[str, float]], rate: float) -> str:
    parts = math.ceil(IMAGENET / PART)
    rows: list[list[object]] = [["parts of the purified training set", parts, parts]]
    rows.append(["bytes of a part, float16", *(f"{PART * 3 * size**2 * 2 / 1e6:,.3g} MB" for size in SIZES[1:])])
    rows.append(["bytes of the set, float16", *(f"{IMAGENET * 3 * size**2 * 2 / 1e9:,.4g} GB" for size in SIZES[1:])])
    seconds = [jobs(counted[size])[PURIFY][0] / (GPUS[-1] * rate * TERA) for size in SIZES[1:]]  # of an image, by all
    written = [f"{3 * size**2 * 2 / 1e6 / took:.3g} MB" for size, took in zip(SIZES[1:], seconds, strict=True)]
    rows.append([f"written a second by {GPUS[-1]} GPUs that purify", *written])
    rows.append(
        [
            "rows of 7 attacks and clean on 10,000 images, two systems",
            *(f"{16 * TEST * len(row_line()) / 1e6:.3g} MB",) * 2,
        ]
    )
    rows.append([f"batches of {TEST:,} test images, {SLOTS} each: the most processes", *(TEST // SLOTS,) * 2])
    return markdown_table(["", *(f"{size} pixels" for size in SIZES[1:])], rows)


def row_line() -> str:
    return json.dumps({"system": "PurSAMERE", "attack": "BPDA20-det", "index": 12345, **ROW, "run": "0" * 16})


def folder_table(folder: Path) -> str:
    made, rows = make_set(folder / "set", IMAGENET, (1, 1, 1), "uint8"), []
    parts = made.parts
    rows.append(
        [f"open a set of {parts:,} parts (reads {IMAGENET:,} indices)", clocked(lambda: PurifiedSet.open(made.path))]
    )
    rows.append(["how many images are there (asked for every progress line)", clocked(made.count)])
    rows.append(["which parts are missing", clocked(made.missing)])
    rows.append(["read 1,000 images here and there", clocked(partial(wander, made))])
    for processes in GPUS:
        run = make_rows(folder / f"run-{processes}", processes)
        rows.append([f"read 160,000 rows of {processes} processes", clocked(partial(read_rows, run))])
    return markdown_table(["", "s"], rows)


def reading_table(folder: Path) -> str:
    rows = []
    for images in (50_000, IMAGENET):
        made = make_set(folder / str(images), images, (3, 32, 32), "float16")
        seconds = float(clocked(partial(read_batches, made)))
        rows.append([f"{images:,}", f"{made.parts:,}", f"{BATCHES * PART / seconds:,.0f}"])
    return markdown_table(["images of the set", "parts", "images/s"], rows)


def make_set(path: Path, images: int, shape: tuple[int, int, int], dtype: str) -> PurifiedSet:
    """A purified set of so many images, all parts alike."""
    made = PurifiedSet.create(path, range(images), shape, {"data": "made up", "split": "train"}, dtype, PART)
    content = np.random.default_rng(0).random((PART, *shape)).astype(dtype)
    for number in range(made.parts):
        write_part(path, number, made.digest, content[: len(made.part(number))])
    return made


def read_batches(made: PurifiedSet) -> None:
    order = np.random.default_rng(0).permutation(len(made))
    for number in range(BATCHES):
        made.take(order[number * PART : (number + 1) * PART])


def make_rows(folder: Path, processes: int) -> Path:
    """The folder of a test of two systems under eight attacks, rows dealt to so many files."""
    with Records(folder, {"made": "up"}) as records:
        stamp = [{"system": system, "attack": f"attack {k}", "index": i, **ROW, "dataset": "imagenet"}
                 for system in ("undefended", "PurSAMERE") for k in range(8) for i in range(TEST)]  # fmt: skip
        records.append(stamp[:1])
        line = (folder / "records-0.jsonl").read_text()
        run = json.loads(line)["run"]
    for process in range(processes):
        mine = (json.dumps({**row, "run": run}) + "\n" for row in stamp[process::processes])
        (folder / f"records-{process}.jsonl").write_text("".join(mine))
    return folder


def wander(made: PurifiedSet) -> None:
    for index in np.random.default_rng(0).integers(len(made), size=1000).tolist():
        made.take([index])


def clocked(work: Callable[[], object], repeats: int = 3) -> str:
    """Median seconds of some repetitions after one for warming up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return f"{sorted(times)[repeats // 2]:.3g}"


if __name__ == "__main__":
    main()
