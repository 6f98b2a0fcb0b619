"""Attacks beside those of other libraries: as strong, and as fast, at the same budget of steps or queries?

    pip install --no-deps torchattacks==3.5.1
    python benchmarks/peers.py --classifier resnet20.th --images cifar10.npz
    python benchmarks/peers.py --classifier resnet20.th --images cifar10.npz --only square-linf apgd-ce-l2 --repeats 5

The classifier is a ResNet-20 of CIFAR-10 with the names of akamaster/pytorch_resnet_cifar10, the images an .npz with
`test_images` (N, 32, 32, 3) uint8 and `test_labels` (N,). Everybody attacks the same frozen classifier and the same
images; after one warm-up of each, all take turns. Seconds are those of the CPU that the process used: with one thread
other programs disturb them little. An image is left if the classifier is right about what the attack returns, or if
that is beyond the budget. Ours with its default decision; peers as they are.
"""

from __future__ import annotations

import argparse
import inspect
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks import (
    APGD,
    EAD,
    FAB,
    MIM,
    PGD,
    SPSA,
    Attack,
    Boundary,
    CarliniWagnerL2,
    RandomSearch,
    SaltAndPepper,
    Square,
)  # fmt: skip
from lit_pursamere.attacks.foolbox_attacks import search
from lit_pursamere.attacks.wrapped import located
from lit_pursamere.report.statistics import wilson
from lit_pursamere.threat import ThreatModel

Peer = Callable[[nn.Module, Tensor, Tensor], Tensor]
LINF, L2, L1 = ThreatModel("linf", 2 / 255), ThreatModel("l2", 0.25), ThreatModel("l1", 4.0)  # some images survive
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
OVER = 1e-3  # relative, by which a peer's arithmetic may leave the budget


class Contest(NamedTuple):
    """One row of the table for each of our attack and its peers, at the same budget."""

    budget: str
    ours: Attack
    peers: dict[str, Peer]


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, x, y = classifier(args.classifier), *images(args)
    found = contests(args)
    chosen = {name: found[name] for name in args.only or found}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {machine}, load {os.getloadavg()[0]:.1f}; {len(x)} images, {args.repeats} repeats"
    )
    with torch.no_grad():
        print(f"clean: {share(int((model(x).argmax(1) == y).sum()), len(x))}\n")
    head = ["attack", "budget", "by", "left, % of n", "CPU s, median", "range", "ours / theirs"]
    print(row(head), row(["---"] * len(head)), sep="\n")
    for name, contest in chosen.items():
        for cells in held(name, contest, model, x, y, args.repeats):
            print(row(cells), flush=True)


def held(name: str, contest: Contest, model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> Iterator[list[str]]:
    """Rows of a contest."""
    threat = contest.ours.budget

    def ours(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return contest.ours(model, x, y).any

    runners: dict[str, Peer] = {"lit_pursamere": ours, **contest.peers}
    left = {by: int(survivors(model, run(model, x, y), x, y, threat).sum()) for by, run in runners.items()}
    seconds: dict[str, list[float]] = {by: [] for by in runners}
    for _ in range(repeats):
        for by, run in runners.items():
            started = time.process_time()
            run(model, x, y)
            seconds[by].append(time.process_time() - started)
    median = {by: statistics.median(times) if times else float("nan") for by, times in seconds.items()}
    for by in runners:
        ratio = "" if by == "lit_pursamere" else f"{median['lit_pursamere'] / median[by]:.2f}"
        yield [
            f"{name}, {threat}",
            contest.budget,
            by,
            share(left[by], len(x)),
            f"{median[by]:.2f}",
            spread(seconds[by]),
            ratio,
        ]


@torch.no_grad()
def survivors(model: nn.Module, x_adv: Tensor, x: Tensor, y: Tensor, threat: ThreatModel) -> Tensor:
    """Images that are right after an attack, or whose attack left the budget, (B,)."""
    return (model(x_adv).argmax(1) == y) | (threat.distance(x_adv, x) > threat.eps * (1 + OVER) + 1e-6)


def contests(args: argparse.Namespace) -> dict[str, Contest]:
    steps, queries = args.steps, args.queries
    found: dict[str, Contest] = {}
    for threat in (LINF, L2, L1):
        step = 2.5 * threat.eps / steps
        pgd = {
            "foolbox": foolbox(f"{NORMS[threat.norm]}PGD", threat, abs_stepsize=step, steps=steps, random_start=False)
        }
        momentum: dict[str, Peer] = {}
        if threat is LINF:
            pgd["torchattacks"] = torchattacks("PGD", threat, alpha=step, steps=steps, random_start=False)
            momentum["torchattacks"] = torchattacks("MIFGSM", threat, alpha=step, steps=steps)
        if threat is L2:
            pgd["torchattacks"] = torchattacks("PGDL2", threat, alpha=step, steps=steps, random_start=False)
        found[f"pgd-{threat.norm}"] = Contest(f"{steps} steps", PGD(threat, steps=steps), pgd)
        if momentum:
            found["mim-linf"] = Contest(f"{steps} steps", MIM(threat, steps=steps), momentum)
        found |= {f"{name}-{threat.norm}": contest for name, contest in autoattack(threat, steps, queries).items()}
    found["spsa-linf"] = Contest(
        f"{args.few} steps of 64 pairs",
        SPSA(LINF, steps=args.few, pairs=64),
        {"torchattacks": torchattacks("SPSA", LINF, nb_iter=args.few, nb_sample=64)},
    )
    return found | minimal(steps, queries)


def autoattack(threat: ThreatModel, steps: int, queries: int) -> dict[str, Contest]:
    """AutoAttack's parts in a norm, with three targets where there are targets."""
    common = {"norm": NORMS[threat.norm]}
    both = threat.norm != "l1"  # torchattacks has no l1
    large = {"use_largereps": threat.norm == "l1", "n_restarts": 1}
    ce = {"pyautoattack": package("autopgd_base.APGDAttack", threat, n_iter=steps, **large)}
    targeted = {
        "pyautoattack": package(
            "autopgd_base.APGDAttack_targeted", threat, n_iter=steps, n_target_classes=3, **large
        )
    }  # fmt: skip
    fab = {"pyautoattack": package("fab_pt.FABAttack_PT", threat, n_iter=steps, targeted=True, n_target_classes=3)}
    untargeted = {"pyautoattack": package("fab_pt.FABAttack_PT", threat, n_iter=steps // 2)}
    square = {"pyautoattack": package("square.SquareAttack", threat, n_queries=queries)}
    if both:
        ce["torchattacks"] = torchattacks("APGD", threat, steps=steps, **common)
        untargeted["torchattacks"] = torchattacks("FAB", threat, steps=steps // 2, **common)
        square["torchattacks"] = torchattacks("Square", threat, n_queries=queries, **common)
    return {
        "apgd-ce": Contest(f"{steps} steps", APGD(threat, steps=steps, restarts=1), ce),
        "apgd-t": Contest(f"{steps} steps to 3", APGD(threat, loss="dlr-t", steps=steps, targets=3), targeted),
        "fab-t": Contest(f"{steps} steps to 3", FAB(threat, steps=steps, targets=3), fab),
        "fab": Contest(f"{steps // 2} steps", FAB(threat, targeted=False, steps=steps // 2), untargeted),
        "square": Contest(f"{queries} queries", Square(threat, queries=queries), square),
    }


def minimal(steps: int, queries: int) -> dict[str, Contest]:
    """Attacks that look for the nearest wrong image, and searches at random."""
    anywhere, near = ThreatModel("linf", 1.0), ThreatModel("linf", 8 / 255)
    far = ThreatModel("l2", 2.0)
    salt = {"foolbox": foolbox("SaltAndPepperNoiseAttack", anywhere, steps=20)}
    noise = {"foolbox": foolbox("LinfRepeatedAdditiveUniformNoiseAttack", near, repeats=queries)}
    gauss = {"foolbox": foolbox("L2RepeatedAdditiveGaussianNoiseAttack", far, repeats=queries)}
    return {
        "cw-l2": Contest(
            f"{2 * steps} steps",
            CarliniWagnerL2(L2, steps=2 * steps),
            {
                "torchattacks": torchattacks("CW", L2, steps=2 * steps),
                "foolbox": foolbox("L2CarliniWagnerAttack", L2, binary_search_steps=1, steps=2 * steps),
            },
        ),
        "ead-l1": Contest(
            f"3 x {steps} steps",
            EAD(L1, steps=steps, search_steps=3),
            {
                "torchattacks": torchattacks("EADL1", L1, max_iterations=steps, binary_search_steps=3),
                "foolbox": foolbox("EADAttack", L1, steps=steps, binary_search_steps=3),
            },
        ),
        "boundary-l2": Contest(
            f"{queries} steps", Boundary(far, steps=queries), {"foolbox": foolbox("BoundaryAttack", far, steps=queries)}
        ),
        "salt-linf": Contest("20 draws", SaltAndPepper(anywhere, tries=20), salt),
        "random-linf": Contest(f"{queries} points", RandomSearch(near, draws=queries // 2), noise),
        "random-l2": Contest(f"{queries} points", RandomSearch(far, draws=queries // 2), gauss),
    }


def torchattacks(name: str, threat: ThreatModel, **arguments: Any) -> Peer:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        known = {} if name in ("CW", "EADL1") else {"eps": float(threat.eps)}
        return located(f"torchattacks.{name}")(model, **known, **arguments)(x, y)

    return run


def foolbox(name: str, threat: ThreatModel, **arguments: Any) -> Peer:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = located(f"foolbox.attacks.{name}")(**arguments)
        bounded = "epsilon" in inspect.signature(attack.run).parameters
        return search(attack, model, x, y, **({"epsilon": float(threat.eps)} if bounded else {}))[0]

    return run


def package(name: str, threat: ThreatModel, **arguments: Any) -> Peer:
    def run(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        made = located(f"pyautoattack.{name}")(
            model, norm=NORMS[threat.norm], eps=float(threat.eps), seed=0, **arguments
        )
        return made.perturb(x, y)

    return run


class ResNet20(nn.Module):
    """He et al. (2016) for CIFAR-10, shortcuts without weights; normalises its images (B, 3, 32, 32) in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        widths = [16, 16, 32, 64]
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(widths[i], widths[i + 1]), *[Block(widths[i + 1], widths[i + 1]) for _ in range(2)])
            for i in range(3)
        )
        self.linear = nn.Linear(64, 10)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.bn1(self.conv1((x - self.mean) / self.std)))
        return self.linear(self.layer3(self.layer2(self.layer1(h))).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inner, outer, 3, outer // inner, 1, bias=False), nn.BatchNorm2d(outer)
        self.conv2, self.bn2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        pad = (h.shape[1] - x.shape[1]) // 2
        return F.relu(h + (F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad)) if pad else x))


def classifier(path: str) -> nn.Module:
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = ResNet20()
    model.load_state_dict({key.removeprefix("module."): value for key, value in state["state_dict"].items()})
    return model.eval().requires_grad_(False)


def images(args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    with np.load(args.images) as arrays:
        chosen = slice(args.first, args.first + args.count)
        x, y = arrays["test_images"][chosen], arrays["test_labels"][chosen]
    return torch.from_numpy(x).permute(0, 3, 1, 2).float().div(255).contiguous(), torch.from_numpy(y).long()


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def share(count: int, n: int) -> str:
    low, high = wilson(count, n)
    return f"{100 * count / n:.1f} [{100 * low:.1f}, {100 * high:.1f}], n = {n}"


def spread(times: list[float]) -> str:
    return f"{min(times):.2f}-{max(times):.2f}" if times else ""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classifier", required=True, help="weights of the ResNet-20")
    parser.add_argument("--images", required=True, help="the .npz")
    parser.add_argument("--first", type=int, default=512, help="first test image")
    parser.add_argument("--count", type=int, default=64, help="images, one batch")
    parser.add_argument("--steps", type=int, default=20, help="of attacks by gradients")
    parser.add_argument("--few", type=int, default=5, help="steps of SPSA")
    parser.add_argument("--queries", type=int, default=300, help="of searches, and steps of Boundary")
    parser.add_argument("--repeats", type=int, default=3, help="timed turns; 0: strength only")
    parser.add_argument("--only", nargs="+", help="names of contests")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's choice")
    return parser.parse_args()


if __name__ == "__main__":
    main()
