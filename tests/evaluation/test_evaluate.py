"""`evaluate` from Python: the rows that a `test` records, without a folder, a loader or a trainer."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import PGD, Square
from lit_pursamere.data import Digits
from lit_pursamere.defense import Defense
from lit_pursamere.defense.detectors import ScoreNorm
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.evaluation import evaluate
from lit_pursamere.purifiers import DiffPure, Identity, Purifier
from lit_pursamere.store import read_rows
from lit_pursamere.tasks import LitRobustness
from lit_pursamere.threat import ThreatModel

COUNT, BATCH, SEED, THREAT = 12, 5, 3, ThreatModel("linf", 0.1)
ATTACKS = {
    "gray": PGD(THREAT, "gray", 2),
    "stop": PGD(THREAT, "bpda", 4, stop_on_success=True),
    "square": Square(THREAT, "bpda", queries=5, evaluations=2),
}


@pytest.fixture(scope="module")
def model() -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.full((1, 1, 8, 8), 0.4), 0.3)


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture(scope="module")
def purifier(model) -> Purifier:
    """Draws fresh noise, which must follow the images."""
    return DiffPure(model, dt=0.05)


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor, Tensor]:
    data = Digits(eval_batch_size=BATCH, test_size=COUNT)
    data.setup("test")
    x, y, index = (torch.cat(column) for column in zip(*data.test_dataloader(), strict=True))
    return x, y, index


def timeless(rows: list[dict]) -> list[dict]:
    rows = [{key: value for key, value in row.items() if key != "run"} for row in rows]
    return [row | {"seconds": 0} for row in sorted(rows, key=lambda r: (r["system"], r["attack"], r["index"]))]


def test_rows_are_those_of_a_test(purifier, classifier, model, batch, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", str(SEED))
    x, y, index = batch
    detector = ScoreNorm(model, 0.1, fpr=0.25)
    task = LitRobustness(
        purifier,
        classifier,
        ATTACKS,
        output=str(tmp_path),
        evaluations=2,
        pictures=0,
        detector=detector,
        calibrate_on="test",
    )
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.test(task, Digits(eval_batch_size=BATCH, test_size=COUNT), verbose=False)
    rows = evaluate(
        Defense(purifier, classifier, detector=detector), ATTACKS, x, y, index=index, batch_size=BATCH, evaluations=2,
        seed=SEED, undefended=True, dataset="digits",
    )  # fmt: skip
    assert len(rows) == 2 * 4 * COUNT
    assert timeless(rows) == timeless(read_rows(tmp_path))
    assert len({row["first_success"] for row in rows if row["attack"] == "stop"}) >= 3, "images must leave at times"
    other = evaluate(Defense(purifier, classifier), {}, x, y, index=index, batch_size=BATCH, evaluations=2)
    noisy = [row["margin_last"] for row in rows if (row["system"], row["attack"]) == ("DiffPure", "clean")]
    assert noisy != [row["margin_last"] for row in other], "fresh noise must matter"


def test_rows_are_in_order_and_those_of_an_image_are_its_own(purifier, classifier, batch):
    x, y, index = batch
    defense, attacks = Defense(purifier, classifier), {"stop": ATTACKS["stop"]}
    with torch.no_grad():
        y = classifier(x).argmax(1)
    rows = evaluate(defense, attacks, x, y, index=index, batch_size=BATCH)
    expected = [("DiffPure", name, number) for name in ("clean", "stop") for number in index.tolist()]
    assert [(row["system"], row["attack"], row["index"]) for row in rows] == expected
    order = [7, 2, 9]
    some = evaluate(defense, attacks, x[order], y[order], index=index[order], batch_size=BATCH)
    assert timeless(some) == timeless([row for row in rows if row["index"] in index[order].tolist()])


def test_nothing_else_is_touched(purifier, classifier, batch):
    x, y, _ = batch
    before, state = x.clone(), torch.get_rng_state()
    with torch.no_grad():
        evaluate(Defense(purifier, classifier), ATTACKS, x, y, batch_size=BATCH)
        assert not torch.is_grad_enabled()
    assert torch.equal(x, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "at least 1 image per batch.*got 0 and 1"),
        ({"evaluations": 0}, "and 1 verdict; got 64 and 0"),
        ({"attacks": {"clean": ATTACKS["gray"]}}, "cannot be named 'clean'"),
        ({"attacks": {"a/b": ATTACKS["gray"]}}, "attack 'a/b' needs another name"),
        ({"attacks": {"\x1b[2J": ATTACKS["gray"]}}, r"attack '\\x1b\[2J' needs another name"),
        ({"attacks": {" ": ATTACKS["gray"]}}, "attack ' ' needs another name"),
        ({"attacks": {"other": PGD(THREAT, "surrogate", 1)}}, "surrogate"),
        ({"y": torch.zeros(3, dtype=torch.long)}, "as many y and index; got 12, 3 and 12"),
        ({"x": torch.zeros(0, 1, 8, 8), "y": torch.zeros(0, dtype=torch.long)}, "needs images.*got 0, 0 and 0"),
        ({"index": torch.zeros(12, dtype=torch.long)}, "12 have only 1"),
        ({"y": torch.full((12,), 10)}, "class numbers from 0 to 9.*10"),
        ({"x": torch.full((12, 1, 8, 8), 255.0)}, r"images must lie in \[0, 1\]"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, message, classifier, batch):
    x, y, _ = batch
    given = {"attacks": {"gray": ATTACKS["gray"]}, "x": x, "y": y} | change
    with pytest.raises(ValueError, match=message):
        evaluate(Defense(Identity(), classifier), **given)
