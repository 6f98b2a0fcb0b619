"""How often another arithmetic changes a verdict of PurSAMERE: kernels, a compiled network, bfloat16, against float64.

    python benchmarks/verdicts.py                    # 200 digits, clean and attacked; about ten minutes on one core

Digits are attacked by PGD20 on the classifier alone, so that all variants purify the same images. Every variant is
compared with the plain formulas in float64: which verdicts differ, and how far the purified images lie apart, divided
by how far they were moved (median). Plain float32 tells how much of it is rounding as such.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.purify import displacement_gap
from lit_pursamere.attacks import PGD
from lit_pursamere.data import Digits
from lit_pursamere.defense import Defense
from lit_pursamere.networks import fused
from lit_pursamere.networks.kernels import library
from lit_pursamere.pretrained import load_classifier, load_purifier
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.threat import ThreatModel

Run = Callable[[Tensor], Tensor]


def main() -> None:
    args = parse_arguments()
    data = Digits(test_size=args.images, eval_batch_size=args.images)
    data.setup("test")
    x, y, _ = next(iter(data.test_dataloader()))
    purifier, classifier = load_purifier("pursamere_digits"), load_classifier("digits/wrn-10-2-pairs")
    assert isinstance(purifier, PurSAMERE)
    gray = Defense(purifier, classifier).view("gray")
    attacked = PGD(threat=ThreatModel("linf", 0.15), steps=20)(gray, x, y).last
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores, {len(x)} digits")
    for name, images in (("clean", x), ("gPGD20", attacked)):
        truth = plain(copy.deepcopy(purifier).double())(images.double())
        right = classifier(truth.float()).argmax(1) == y
        print(f"\n{name}: {right.float().mean():.1%} right in float64")
        for variant, run in build_variants(purifier, args.variants).items():
            purified = run(images).float()
            verdicts = classifier(purified).argmax(1) == y
            differ = (verdicts != right).sum()
            gap = displacement_gap(purified.double(), truth, images.double()).median()
            print(f"{variant:10} {differ:4d} differ, {verdicts.float().mean():.1%} right, gap {gap:.1e}", flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--variants", nargs="+", default=["plain", "kernels", "compiled", "bfloat16"])
    return parser.parse_args()


def plain(purifier: PurSAMERE) -> Run:
    def run(x: Tensor) -> Tensor:
        with patch.object(fused, "fast", lambda h: False):
            return purifier(x)

    return run


def build_variants(purifier: PurSAMERE, wanted: list[str]) -> dict[str, Run]:
    compiled = copy.deepcopy(purifier)
    compiled.score_model.network.compile()

    def bfloat16(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return purifier(x)

    kernels = {"kernels": purifier} if library() else {}
    found = {"plain": plain(purifier), **kernels, "compiled": compiled, "bfloat16": bfloat16}
    return {name: run for name, run in found.items() if name in wanted}


if __name__ == "__main__":
    main()
