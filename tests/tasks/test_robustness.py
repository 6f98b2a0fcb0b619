"""LitRobustness: the verdict is the defence's own, every image counts once, and a second run continues the first."""

import json
import math
import os
import signal
from dataclasses import dataclass

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.attacks import PGD
from lit_pursamere.data import Digits
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.purifiers import Identity, PurSAMERE
from lit_pursamere.results import accuracies, read_rows
from lit_pursamere.tasks import LitRobustness
from lit_pursamere.threat import ThreatModel


class NearestMean(nn.Module):
    """Logits are minus squared distances to the class means: accurate on digits without training."""

    def __init__(self):
        super().__init__()
        train = Digits().load("train")
        self.register_buffer("means", torch.stack([train.images[train.labels == k].mean(0) for k in range(10)]))

    def forward(self, x):
        return -(x.unsqueeze(1) - self.means).square().flatten(2).sum(2)


def world():
    classifier = NearestMean()
    return PurSAMERE(GaussianMixtureScore(classifier.means, 0.2), 0.8, 0.2, 1, [0.5, 0.3, 0.1]), classifier


ATTACKS = {
    "gray": PGD(ThreatModel("linf", 0.1), "gray", 3),
    "bpda": PGD(ThreatModel("linf", 0.1), "bpda", 3),
}


def evaluate(tmp_path, attacks=ATTACKS, n=12, limit=None, batch=5, **options):
    purifier, classifier = world()
    task = LitRobustness(purifier, classifier, attacks, output=str(tmp_path / "out"), **options)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=tmp_path, limit_test_batches=limit,
    )  # fmt: skip
    metrics = trainer.test(task, Digits(eval_batch_size=batch, test_size=n), verbose=False)[0]
    return metrics, read_rows(tmp_path / "out")


def test_verdicts_are_the_defence_s_own(tmp_path):
    metrics, rows = evaluate(tmp_path)
    purifier, classifier = world()
    source = Digits().load("test")
    x, y = source.images[:12], source.labels[:12]
    clean = (classifier(purifier(x)).argmax(1) == y).tolist()
    assert [row["votes_last"] for row in rows if (row["system"], row["attack"]) == ("PurSAMERE", "clean")] == clean
    # BPDA by hand: the gradient at the purified image, applied to the image
    x_adv = x
    for _ in range(3):
        purified = purifier(x_adv).detach().requires_grad_()
        loss = F.cross_entropy(classifier(purified), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, purified)
        x_adv = (x_adv + 2.5 * 0.1 / 3 * gradient.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    attacked = (classifier(purifier(x_adv)).argmax(1) == y).tolist()
    assert [row["votes_last"] for row in rows if (row["system"], row["attack"]) == ("PurSAMERE", "bpda")] == attacked
    assert metrics["test/PurSAMERE/bpda/last"] == pytest.approx(sum(attacked) / 12)
    assert 0 < sum(attacked) + sum(clean) < 24, "the world must tell right from wrong"


def test_rows_are_complete_and_metrics_agree(tmp_path):
    metrics, rows = evaluate(tmp_path)
    assert len(rows) == 2 * 3 * 12
    assert all(row["distance"] <= 0.1 + 1e-6 for row in rows)
    table = accuracies(rows)
    for (system, attack, kind), cell in table.items():
        assert cell.n == 12
        assert metrics[f"test/{system}/{attack}/{kind}"] == pytest.approx(cell.value)
    assert ("PurSAMERE", "gray", "any") not in table, "a gray attacker does not see the defence"
    assert table["PurSAMERE", "bpda", "any"].correct <= table["PurSAMERE", "bpda", "last"].correct
    assert ("undefended", "gray", "any") in table


def test_batch_size_does_not_matter(tmp_path):
    def verdicts(rows):
        return {(r["system"], r["attack"], r["index"]): (r["votes_last"], r["votes_any"]) for r in rows}

    assert verdicts(evaluate(tmp_path / "a", batch=1)[1]) == verdicts(evaluate(tmp_path / "b", batch=12)[1])


def test_continues_where_it_stopped(tmp_path):
    partial = evaluate(tmp_path, limit=1)[1]
    assert {row["index"] for row in partial} == set(range(5))
    stamps = {json.dumps(row) for row in partial}
    metrics, rows = evaluate(tmp_path)
    assert stamps <= {json.dumps(row) for row in rows}, "finished images are not evaluated again"
    fresh_metrics, fresh = evaluate(tmp_path / "fresh")
    assert metrics == fresh_metrics
    keys = ("system", "attack", "index", "prediction", "votes_last", "votes_any", "distance")
    assert [[row[k] for k in keys] for row in rows] == [[row[k] for k in keys] for row in fresh]


def test_another_configuration_is_refused(tmp_path):
    evaluate(tmp_path)
    with pytest.raises(ValueError, match=r"results of another configuration \(attacks: .*0\.2"):
        evaluate(tmp_path, {"bpda": PGD(ThreatModel("linf", 0.2), "bpda", 3)})


def test_writes_report_and_pictures(tmp_path):
    evaluate(tmp_path)
    out = tmp_path / "out"
    head = (out / "report.md").read_text().splitlines()[0]
    assert head.split("|")[3].strip() == "gray (last)", "columns follow the configuration"
    for picture in ("pictures.png", "levels.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_inference_mode_is_refused(tmp_path):
    purifier, classifier = world()
    task = LitRobustness(purifier, classifier, {}, output=str(tmp_path / "out"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(RuntimeError, match="inference_mode=False"):
        trainer.test(task, Digits(test_size=2), verbose=False)


def test_clean_is_not_a_name_for_an_attack():
    purifier, classifier = world()
    with pytest.raises(ValueError, match="cannot be named 'clean'"):
        LitRobustness(purifier, classifier, {"clean": ATTACKS["gray"]})


class CoinFlip(nn.Module):
    """Ignores the image: right with probability 0.7 at each call and image, else wrong."""

    def forward(self, x):
        logits = torch.zeros(len(x), 10)
        logits[:, 0] = (torch.rand(len(x)) < 0.7).float() - 0.5
        return logits + 0.0 * x.flatten(1).sum(1, keepdim=True)


class Zeros(Digits):
    """Digits that all count as the first class."""

    def load(self, split):
        source = super().load(split)
        source.labels.zero_()
        return source


def test_repeated_verdicts_give_mean_worst_case_and_vote(tmp_path):
    task = LitRobustness(Identity(), CoinFlip(), {}, output=str(tmp_path / "out"), evaluations=5)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    torch.manual_seed(0)
    metrics = trainer.test(task, Zeros(eval_batch_size=100, test_size=397), verbose=False)[0]
    rows = read_rows(tmp_path / "out")
    assert {row["evaluations"] for row in rows} == {5} and {row["votes_last"] for row in rows} == {0, 1, 2, 3, 4, 5}
    table = accuracies(rows)
    expected = {
        "last": 0.7,
        "last worst": 0.7**5,
        "last vote": sum(math.comb(5, k) * 0.7**k * 0.3 ** (5 - k) for k in (3, 4, 5)),
    }
    for semantics, share in expected.items():
        cell = table["Identity", "clean", semantics]
        assert cell.n == 397 and cell.value == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 397))
    assert metrics["test/Identity/clean/last"] == pytest.approx(table["Identity", "clean", "last"].value)
    head = (tmp_path / "out/report.md").read_text().splitlines()[0]
    assert "clean (last worst)" in head and "clean (last vote)" in head


def test_the_worse_candidate_decides_and_evaluations_must_be_positive(tmp_path):
    _, rows = evaluate(tmp_path, evaluations=3)
    attacked = [row for row in rows if row["attack"] == "bpda"]
    assert all(row["votes_any"] <= row["votes_last"] for row in attacked)
    assert {row["votes_last"] for row in attacked} <= {0, 3}, "a deterministic defence repeats its verdict"
    with pytest.raises(ValueError, match="got 0"):
        evaluate(tmp_path, evaluations=0)


@dataclass(frozen=True)
class Signalling(PGD):
    """PGD during whose third step the machine asks the process to stop."""

    def step(self, view, x, y, state):
        Signalling.taken += 1
        if Signalling.taken == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(view, x, y, state)


def test_sigterm_stops_within_an_attack(tmp_path):
    Signalling.taken = 0
    with pytest.raises(SystemExit, match="the same command continues"):
        evaluate(tmp_path, {"long": Signalling(ThreatModel("linf", 0.1), "bpda", 50)})
    assert Signalling.taken == 3
    done = {(row["system"], row["attack"]) for row in read_rows(tmp_path / "out")}
    assert done == {("PurSAMERE", "clean")}, "finished verdicts are kept"
