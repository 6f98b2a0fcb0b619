"""GPU-hours of published tables, from the speed of a purification and of a network.

    PurSAMERE:  hours = purifications / (images/s of whole purifications at the paper's width)
    rivals:     hours = FLOP of all network calls / (FLOP/s of EDM's network)

An exact gradient runs through every call twice, forward without a graph and then forward and back, for each step is
computed again on the way back; a straight-through one only needs the forward calls. Networks other than EDM's are taken
to reach its FLOP/s. Left out: classifiers (also the one that guides COUP), trainings, images of other sizes (Liu et
al., Table 6) and the tiny networks of MNIST (Srinivasan et al., Table 2). Attacks count as if no image ever fell, so
those that end early (AutoAttack, DiffHammer) are upper bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import NamedTuple

import torch
from measuring import flop_of

from benchmarks.purify import PAPER_DRAWS, PAPER_JOBS, PAPER_LEVELS
from lit_pursamere.diffusion import DDPMppScore, DDPMScore, EDMScore, NCSNv2Score, ScoreModel

__all__ = ["PROTOCOLS", "RIVALS", "Asked", "Evaluation", "Speed", "System", "gpu_hours", "markdown"]

PER_PURIFICATION = 2 * PAPER_LEVELS * PAPER_DRAWS  # network calls of PurSAMERE, each with its input gradient


class Speed(NamedTuple):
    """What a network reaches, in TFLOP/s: forward, and forward with the gradient of its input."""

    forward: float
    gradient: float


class System(NamedTuple):
    """A purifier as far as cost goes: its network, and the calls that a purification takes."""

    network: str
    calls: int


class Asked(NamedTuple):
    """What an attack asks per image: gradients and values of the defence; `exact`: through the purifier."""

    gradients: int
    values: int = 0
    exact: bool = True


class Evaluation(NamedTuple):
    """`systems` defences of one cost; on each image the clean verdict, and every attack with its own verdict."""

    system: System
    attacks: tuple[Asked, ...]
    images: int
    systems: int = 1
    verdicts: int = 1  # purifications that a verdict takes

    def purifications(self) -> tuple[int, int]:
        """Purifications without and with the exact derivative, over all images and systems."""
        plain = self.verdicts * (1 + len(self.attacks)) + sum(attack.values for attack in self.attacks)
        plain += sum(attack.gradients for attack in self.attacks if not attack.exact)
        exact = sum(attack.gradients for attack in self.attacks if attack.exact)
        return self.images * self.systems * plain, self.images * self.systems * exact

    def calls(self) -> int:
        """Network calls as a purifier asks for them; computing a step again for its derivative is not counted."""
        return self.system.calls * sum(self.purifications())

    def seconds(self, flop: float, speed: Speed) -> float:
        """Seconds, for a network of `flop` FLOP a forward; its input gradient takes as many."""
        plain, exact = self.purifications()
        forward = (plain + exact) * self.system.calls * flop / (speed.forward * 1e12)
        return forward + exact * self.system.calls * 2 * flop / (speed.gradient * 1e12)


DIFFPURE, DIFFPURE_L2, CORRECTOR, ADBM = (System("DDPM++", calls) for calls in (100, 75, 202, 5))
COUP, COUP_L2 = DIFFPURE, DIFFPURE_L2  # as many score calls
DDPM, GDMP, EDM, ADP = System("DDPM", 101), System("DDPM", 144), System("EDM", 99), System("NCSNv2", 20)
DDIM_10, DDIM_100 = System("DDPM", 11), System("DDPM", 101)  # by the papers' NFE
BY_NFE = tuple(System("DDPM", nfe + 1) for nfe in (5, 10, 20, 50, 100))

# Queries per image of the attacks in configs/protocol/, as estimate counts them.
PROTOCOLS = {
    "liu-dwbox": Asked(20),
    "liu": Asked(200),
    "liu-semi-128": Asked(2560),
    "leekim": Asked(4000),
    "leekim-bpda": Asked(4000, exact=False),
    "adbm-linf": Asked(4000),
    "adp": Asked(600, exact=False),
    "hill": Asked(750, exact=False),
    "diffhammer": Asked(1500, values=30),
    "diffbreak": Asked(1010, values=30),
    "diffbreak-vote128": Asked(12928, values=384),
    "fixed-aa": Asked(4040, values=100),
}
DW, LIU, PGD200, FIXED_AA = (PROTOCOLS[name] for name in ("liu-dwbox", "liu", "leekim", "fixed-aa"))
RAND, STANDARD = Asked(4040, values=5), Asked(1910, values=5947)  # AutoAttack as DiffPure ran it
TWO, AA = (LIU, LIU), (RAND, STANDARD)  # linf and l2; the lower of both versions


def liu(system: System, systems: int = 1, attacks: tuple[Asked, ...] = TWO) -> Evaluation:
    return Evaluation(system, attacks, 1024, systems)


RIVALS: dict[str, tuple[Evaluation, ...]] = {
    "Hoang et al. (2026), Table 2, rivals: PGD20 on known noise": (liu(DDPM, 2, (DW,)), liu(DDIM_100, 2, (DW,))),
    "Hoang et al. (2026), Table 3, rivals (Li et al., 2025): PGD200-EoT20, 3 norms": tuple(
        Evaluation(system, (PGD200,) * 3, 512) for system in (ADBM, ADP, DIFFPURE)
    ),
    "Zhang et al. (2024), Table 1: AutoAttack linf": (Evaluation(DIFFPURE, AA, 512), Evaluation(COUP, AA, 512)),
    "Zhang et al. (2024), Table 2: AutoAttack l2": (Evaluation(DIFFPURE_L2, AA, 512), Evaluation(COUP_L2, AA, 512)),
    "Zhang et al. (2024), Table 3: BPDA50-EoT15": tuple(
        Evaluation(system, (PROTOCOLS["hill"],), 200, verdicts=150) for system in (ADP, GDMP, DIFFPURE, COUP)
    ),
    "Liu et al. (2025), Table 1: EoT 1 and 10": tuple(
        liu(system, attacks=(DW, LIU)) for system in (DIFFPURE, GDMP, DDPM, DDIM_100)
    ),
    "Liu et al. (2025), Table 2: methods": (
        liu(DDIM_100, 2), liu(GDMP, 3), liu(DDPM, 2), liu(COUP), liu(DIFFPURE, 2), liu(EDM, 2),
    ),
    "Liu et al. (2025), Table 3: DP_DDPM by NFE, two data sets": tuple(liu(system, 4) for system in BY_NFE),
    "Liu et al. (2025), Table 4: classifiers": (liu(DDPM, 10), liu(DDIM_10, 10), liu(EDM, 4)),
    "Liu et al. (2025), Table 5: fine-tuning": tuple(liu(system, 4) for system in BY_NFE),
    "Liu et al. (2025), Table 9: DP_EDM": (liu(EDM, 4),),
    "Liu et al. (2025), Table 10: DP_DDIM by NFE, two data sets": tuple(liu(system, 4) for system in BY_NFE),
    "Liu et al. (2025), Table 11: extra corrector": (liu(DIFFPURE, 2), liu(CORRECTOR, 2)),
    "Liu et al. (2025), Table 12: ADDT by other perturbations": (liu(DDPM, 6), liu(DDIM_100, 6)),
    "Liu et al. (2025), Table 13: AutoAttack rand, fixed, PGD": tuple(
        liu(system, attacks=(RAND, FIXED_AA, LIU) * 2) for system in (DIFFPURE, DDPM, DDIM_100)
    ),
    "Liu et al. (2025), Table 14: fixed AutoAttack": tuple(
        Evaluation(system, (FIXED_AA,) * 2, 1024, 2, verdicts=20) for system in (DIFFPURE, DDPM, DDIM_100)
    ),
    "Liu et al. (2025), Table 15: lambda by NFE": tuple(liu(system, 4) for system in BY_NFE),
    "Nie et al. (2022), protocol diffpure-aa: 8 data seeds": (Evaluation(DIFFPURE, AA, 8 * 64),),
    "Yoon et al. (2021), protocol adp": (Evaluation(ADP, (PROTOCOLS["adp"],), 10_000, verdicts=10),),
    "Lee and Kim (2023), protocol leekim": (Evaluation(DIFFPURE, (PGD200,), 512), Evaluation(GDMP, (PGD200,), 512)),
    "Lee and Kim (2023), protocol leekim-bpda": (Evaluation(GDMP, (PROTOCOLS["leekim-bpda"],), 512, verdicts=10),),
    "Wang et al. (2024), protocol diffhammer": (Evaluation(DIFFPURE, (PROTOCOLS["diffhammer"],), 512, verdicts=10),),
    "Kassis et al. (2025), protocol diffbreak": (Evaluation(DIFFPURE, (PROTOCOLS["diffbreak"],), 256, verdicts=10),),
    "Kassis et al. (2025), protocol diffbreak-vote128": (
        Evaluation(DIFFPURE, (PROTOCOLS["diffbreak-vote128"],), 256, verdicts=128),
    ),
}  # fmt: skip

NETWORKS: dict[str, Callable[[], ScoreModel]] = {
    "DDPM": DDPMScore, "DDPM++": DDPMppScore, "EDM": EDMScore, "NCSNv2": NCSNv2Score,
}  # fmt: skip


def gpu_hours(
    purified: Mapping[str, float], speeds: Mapping[str, Speed], flop: Mapping[str, float] | None = None
) -> dict[str, dict]:
    """Network calls and hours of every table, in each arithmetic whose speed is known.

    Args:
        purified: Whole purifications per second of PurSAMERE at the paper's width, by arithmetic.
        speeds: What EDM's network reaches, by arithmetic.
        flop: FLOP of a forward by network; None: counted.

    Returns:
        For every table `network_evaluations`, and `gpu_hours` by arithmetic.
    """
    flop = {name: forward_flop(build) for name, build in NETWORKS.items()} if flop is None else flop
    tables: dict[str, dict] = {}
    for job, count in PAPER_JOBS.items():
        hours = {precision: count / rate / 3600 for precision, rate in purified.items()}
        tables[f"Hoang et al. (2026), {job}"] = {
            "network_evaluations": count * PER_PURIFICATION, "gpu_hours": hours,
        }  # fmt: skip
    for table, evaluations in RIVALS.items():
        hours = {
            precision: sum(part.seconds(flop[part.system.network], speed) for part in evaluations) / 3600
            for precision, speed in speeds.items()
        }
        tables[table] = {"network_evaluations": sum(part.calls() for part in evaluations), "gpu_hours": hours}
    return tables


@cache
def forward_flop(build: Callable[[], ScoreModel]) -> float:
    """FLOP of a forward of one image 32x32x3."""
    with torch.device("meta"), torch.no_grad():
        model = build().eval()
        return flop_of(lambda: model.predict_noise(torch.empty(1, 3, 32, 32), 0.1))


def markdown(tables: Mapping[str, dict]) -> str:
    """The tables of `gpu_hours` as one in Markdown."""
    precisions = list(dict.fromkeys(name for table in tables.values() for name in table["gpu_hours"]))
    lines = ["table", "network evaluations", *(f"GPU-hours, {precision}" for precision in precisions)]
    rows = [lines, ["---"] * len(lines)]
    for name, table in tables.items():
        hours = [table["gpu_hours"].get(precision) for precision in precisions]
        rows.append([name, f"{table['network_evaluations']:.3g}", *("" if h is None else f"{h:,.1f}" for h in hours)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
