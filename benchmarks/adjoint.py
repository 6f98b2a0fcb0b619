"""How far the adjoint gradient of an SDE lies from the exact one, and what each costs.

    python benchmarks/adjoint.py                                       # digits, shipped networks, a minute on a CPU
    python benchmarks/adjoint.py --t_end 0.02                          # without the stiff end of DiffPure's process
    python benchmarks/adjoint.py --images 64 --device cuda

For DiffPure and COUP, steps of several lengths with the same seed: cosine and relative error of the gradient of the
cross-entropy, per image; the share of its signs that differ, which is what a linf step uses; seconds for each.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks.gradients import loss_gradient
from lit_pursamere.data import Digits
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import NCSNv2Score
from lit_pursamere.networks import WideResNet
from lit_pursamere.purifiers import COUP, DiffPure, Purifier
from lit_pursamere.weights import load_weights

HEAD = "| purifier | dt | steps | cosine: median, least | relative error: median | signs differ | s exact | adjoint |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dt", type=float, nargs="+", default=[0.01, 0.005, 0.0025, 0.001])
    parser.add_argument("--t_end", type=float, default=1e-5, help="where DiffPure's reverse process ends")
    parser.add_argument("--json", help="file for the numbers")
    args = parser.parse_args()
    score = NCSNv2Score(ngf=16, channels=1, image_size=8, checkpoint="checkpoints/digits/score.safetensors")
    score = score.to(args.device)
    classifier = WideResNet(10, 2, channels=1)
    load_weights(classifier, "checkpoints/digits/classifier.safetensors")
    classifier = classifier.to(args.device).eval()
    source = Digits().load("test")
    x, y = source.images[: args.images].float(), source.labels[: args.images]
    print(f"{HEAD}\n|{' --- |' * 8}")
    rows = []
    for dt in args.dt:
        for purifier in (
            DiffPure(score, dt=dt, t_end=args.t_end).under("fixed"),
            COUP(score, classifier, dt=dt).under("fixed"),
        ):
            rows.append(compare(purifier, classifier, x.to(args.device), y.to(args.device)))
            print(row_text(rows[-1]), flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"arguments": vars(args), "torch": torch.__version__, "rows": rows}, file, indent=1)


def compare(purifier: Purifier, classifier: nn.Module, x: Tensor, y: Tensor) -> dict[str, object]:
    defense, gradients, seconds = Defense(purifier, classifier), {}, {}
    for view in ("exact", "adjoint"):
        since = time.perf_counter()
        gradients[view] = loss_gradient(defense.view(view), x, y)[0].flatten(1).double().cpu()
        seconds[view] = time.perf_counter() - since
    exact, adjoint = gradients["exact"], gradients["adjoint"]
    cosine = F.cosine_similarity(exact, adjoint)
    return {
        "purifier": type(purifier).__name__,
        "dt": purifier.dt,
        "steps": len(purifier.steps),
        "cosine": cosine.tolist(),
        "error": ((adjoint - exact).norm(dim=1) / exact.norm(dim=1)).tolist(),
        "signs": ((exact * adjoint) < 0).double().mean().item(),
        "seconds": seconds,
    }


def row_text(row: dict) -> str:
    cosine, error = torch.tensor(row["cosine"]), torch.tensor(row["error"])
    return (
        f"| {row['purifier']} | {row['dt']:g} | {row['steps']} | {cosine.median():.4f}, {cosine.min():.4f} | "
        f"{error.median():.3f} | {100 * row['signs']:.1f} % | {row['seconds']['exact']:.1f} | "
        f"{row['seconds']['adjoint']:.1f} |"
    )


if __name__ == "__main__":
    main()
