"""Rows do not depend on who shares the work: any number of processes, with and without interruptions, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from lit_pursamere.attacks import PGD, Attack, Outcome
from lit_pursamere.data import Digits, ShardSampler
from lit_pursamere.defense import Defense
from lit_pursamere.defense.ensemble import Ensemble
from lit_pursamere.evaluation.evaluation import Evaluation
from lit_pursamere.evaluation.judge import judge
from lit_pursamere.evaluation.recording import RecordedEvaluation
from lit_pursamere.networks import WideResNet
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import ADP, Identity, PurSAMERE
from lit_pursamere.store import Records, read_rows
from lit_pursamere.threat import ThreatModel

THREAT, COUNT, SLOTS = ThreatModel("linf", 0.2), 7, 3


@dataclass(frozen=True)
class Neighbours(Attack):
    """Takes every image towards the next one of its batch."""

    def perturb(self, view, x, y, progress):
        progress(1, 1)
        return Outcome(x.roll(1, 0), x.roll(1, 0))


ATTACKS = {
    "gray": PGD(THREAT, "gray", 3),
    "stop": PGD(THREAT, "bpda", 4, stop_on_success=True),
    "neighbours": Neighbours(THREAT),
}


@pytest.fixture(scope="module")
def systems(tiny_scores):
    """A WideResNet with the shape of the digits, alone, behind PurSAMERE and behind an ensemble of fresh noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = WideResNet(10, 1, channels=1)
    purifier = PurSAMERE(tiny_scores("NCSNv2"), 0.8, 0.2, 1, [0.5, 0.1])
    return {
        "PurSAMERE": Defense(purifier, network),
        "undefended": Defense(Identity(), network),
        "ADP": Defense(ADP(tiny_scores("NCSNv2"), 0.1, steps=1), network, Ensemble(2)),
    }


@pytest.fixture(scope="module")
def data(systems):
    source = Digits().load("test")
    x = torch.stack([source[i][0] for i in range(COUNT)])
    with torch.no_grad():
        y = systems["undefended"](x).argmax(1)  # an untrained network, right all the same
    return x, y


def evaluate(systems, data, folder, world=1, ranks=None):
    """What the processes `ranks` of `world` do, one after the other."""
    for rank in range(world) if ranks is None else ranks:
        positions = torch.tensor(list(ShardSampler(COUNT, rank, world, SLOTS)))
        batches = [(data[0][chunk], data[1][chunk], chunk) for chunk in positions.split(SLOTS)]
        records, progress = Records(folder, {"attacks": {}}, rank), Progress("test", "verdict", hidden=True)
        evaluation = Evaluation(systems, ATTACKS, "digits", SLOTS)
        recorded = RecordedEvaluation(evaluation, records, progress)
        for system in systems:
            for attack in ("clean", *ATTACKS):
                list(recorded.complete(system, attack, batches))
    return [row | {"seconds": 0} for row in read_rows(folder)]


@pytest.fixture(scope="module")
def whole(systems, data, tmp_path_factory):
    """The rows of one process that nobody interrupts."""
    rows = evaluate(systems, data, tmp_path_factory.mktemp("whole"))
    assert len(rows) == 3 * 4 * COUNT
    broken = {row["first_success"] for row in rows if row["attack"] == "stop"}
    assert len(broken) >= 3, "images must leave at different steps"
    noisy = [row["margin_last"] for row in rows if (row["system"], row["attack"]) == ("ADP", "clean")]
    again = judge(systems["ADP"], data[0], data[1], 1, SLOTS).margin
    assert not torch.allclose(torch.tensor(noisy), again, atol=1e-4), "fresh noise must matter"
    return rows


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_processes_gives_the_same_rows(world, whole, systems, data, tmp_path):
    assert evaluate(systems, data, tmp_path, world) == whole


@pytest.mark.slow
def test_a_run_may_go_on_with_another_number_of_processes(whole, systems, data, tmp_path):
    evaluate(systems, data, tmp_path, 3, [1, 2])
    evaluate(systems, data, tmp_path, 2, [0])
    assert evaluate(systems, data, tmp_path, 1) == whole


class Stopped(Exception):
    pass


@pytest.mark.parametrize("every", [11, pytest.param(7, marks=pytest.mark.slow)])
def test_interruptions_do_not_matter(every, whole, systems, data, tmp_path, monkeypatch):
    """Stopped at every so-many-th occasion, started again, until it is done."""
    for start in range(100):
        occasions = iter(range(every + start))

        def stop(*unused, occasions=occasions):
            if next(occasions, None) is None:
                raise Stopped

        monkeypatch.setattr(Progress, "__call__", stop)
        try:
            rows = evaluate(systems, data, tmp_path)
            break
        except Stopped:
            continue
    assert start >= 3, "it must have been stopped now and then"
    assert rows == whole
