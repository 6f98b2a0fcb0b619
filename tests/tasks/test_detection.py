"""Both readings of a rejection follow from the records: every pair of last and first fooling iterate, by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import Attack, Outcome
from lit_pursamere.defense import Defense
from lit_pursamere.defense.detectors import Detector
from lit_pursamere.evaluation.evaluation import Evaluation
from lit_pursamere.evaluation.recording import RecordedEvaluation
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import Identity
from lit_pursamere.report import SEMANTICS, accuracies, worst_cases
from lit_pursamere.report.verdicts import other_reading
from lit_pursamere.store import Records, read_rows
from lit_pursamere.threat import ThreatModel

EVALUATIONS = 4
KINDS = list(product((0, 2, 4), (False, True)))  # right answers of 4, rejected
PAIRS = list(product(KINDS, KINDS))  # at the last iterate, at the one that first fooled the view


class Plain(nn.Module):
    """Class 0 where the first pixel is dark, class 1 where it is bright, one after the other where it is grey."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        first = x[:, 0, 0, 0]
        first = torch.where(first == 0.5, float(self.calls % 2), first)
        return torch.stack([0.5 - first, first - 0.5], 1)


class SecondPixel(Detector):
    def statistic(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, 1]


@dataclass(frozen=True, eq=False)
class Given(Attack):
    """Images that are given beforehand."""

    last: Tensor = field(kw_only=True)
    any: Tensor = field(kw_only=True)

    def perturb(self, view, x, y, progress):
        return Outcome(self.last, self.any)


def picture(votes: int, rejected: bool) -> Tensor:
    """An image (1, 1, 3) of class 0 that is of this kind; the third pixel tells it from a clean one."""
    return torch.tensor([[[1 - votes / 4, float(rejected), 0.25]]])


def evaluate(folder, pairs, rejects: bool = True) -> list[dict]:
    """Rows of clean images, right and accepted, and of attacked ones of these kinds at both iterates."""
    last, any_ = (torch.stack([picture(*pair[i]) for pair in pairs]) for i in (0, 1))
    attack = Given(ThreatModel("linf", 1.0), "exact", last=last, any=any_)
    defense = Defense(Identity(), Plain(), detector=SecondPixel(threshold=0.5) if rejects else None)
    records, progress = Records(folder, {"attacks": {}}), Progress("test", "verdict", hidden=True)
    evaluation = Evaluation({"A": defense}, {"given": attack}, "toy", len(pairs), EVALUATIONS)
    recorded = RecordedEvaluation(evaluation, records, progress)
    batch = torch.zeros(len(pairs), 1, 1, 3), torch.zeros(len(pairs), dtype=torch.long), torch.arange(len(pairs))
    for name in ("clean", "given"):
        list(recorded.complete("A", name, [batch]))
    return read_rows(folder)


def counts(kind: tuple[int, bool]) -> tuple[int, int]:
    """Evaluations that are right and accepted, and that are right or rejected."""
    votes, rejected = kind
    return (0, EVALUATIONS) if rejected else (votes, votes)


def test_records_hold_the_worse_iterate_by_either_count(tmp_path):
    rows = [row for row in evaluate(tmp_path, PAIRS) if row["attack"] == "given"]
    for row, (last, any_) in zip(rows, PAIRS, strict=True):
        assert (row["votes_last"], row["unfooled_last"]) == counts(last)
        worse = tuple(map(min, counts(last), counts(any_)))
        assert (row["votes_any"], row["unfooled_any"]) == worse, (last, any_)
        assert row["rejected_last"] == last[1]
        if (0, False) in (last, any_):
            assert row["prediction_any"] == 1, "the iterate that fools classifier and detector is the one that is kept"


def test_the_readings_bracket_each_other_and_the_truth(tmp_path):
    rows = evaluate(tmp_path, PAIRS)
    table, worst = accuracies(rows), {s: worst_cases(rows, ["given"], s)["A"] for s in SEMANTICS}
    for semantics in SEMANTICS:
        assert table["A", "clean", semantics.replace("any", "last")].value == 1
        low, high = sorted((semantics, other_reading(semantics)), key=len)
        assert table["A", "given", low].value < table["A", "given", high].value
        assert worst[semantics] == table["A", "given", semantics]
    assert table["A", "given", "any"].correct == sum(min(counts(a)[0], counts(b)[0]) for a, b in PAIRS) / EVALUATIONS
    found = table["A", "given", "any or rejected"].correct
    assert found == sum(min(counts(a)[1], counts(b)[1]) for a, b in PAIRS) / EVALUATIONS


@pytest.mark.parametrize("votes", [0, 4])
def test_a_detector_that_rejects_all_attacks_leaves_nothing_or_everything(tmp_path, votes):
    rows = evaluate(tmp_path, [((votes, True), (0, True))] * 3)
    table = accuracies(rows)
    for semantics in SEMANTICS:
        expected = 1 if semantics.endswith("or rejected") else 0
        assert table["A", "given", semantics].value == worst_cases(rows, ["given"], semantics)["A"].value == expected


def test_a_detector_that_rejects_nothing_changes_nothing(tmp_path):
    pairs = [(a, b) for a, b in PAIRS if not a[1] and not b[1]]
    with_one, without = (evaluate(tmp_path / str(rejects), pairs, rejects) for rejects in (True, False))
    assert [row["votes_any"] for row in with_one] == [row["votes_any"] for row in without]
    assert all("unfooled_last" not in row for row in without)
    table = accuracies(with_one)
    for semantics in SEMANTICS:
        for iterate in {"given": semantics, "clean": semantics.replace("any", "last")}.items():
            assert table["A", *iterate] == table["A", iterate[0], other_reading(iterate[1])]
        assert worst_cases(with_one, ["given"], semantics) == worst_cases(without, ["given"], semantics)
