"""LitCertification: one certificate per image and level, the same wherever it is stopped and whoever makes it."""

from __future__ import annotations

import json
import re

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lit_pursamere.cli.main import main
from lit_pursamere.data import Digits
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.evaluation.certification import Certification
from lit_pursamere.purifiers import DP_DDIM, Identity, PurSAMERE
from lit_pursamere.sharding import WHOLE, Shard
from lit_pursamere.store.certificates import read_certificates
from lit_pursamere.tasks import LitCertification

N, SIGMAS = 7, [0.2, 0.4]


class NearestMean(nn.Module):
    """Logits are minus squared distances to the class means: accurate on digits without training."""

    def __init__(self):
        super().__init__()
        train = Digits().load("train")
        self.register_buffer("means", torch.stack([train.images[train.labels == k].mean(0) for k in range(10)]))

    def forward(self, x):
        return -(x.unsqueeze(1) - self.means).square().flatten(2).sum(2)


def certify(folder, shard=WHOLE, limit=None, batch=3, **options):
    classifier = NearestMean()
    score = GaussianMixtureScore(classifier.means, 0.2)
    settings = {"sigma": SIGMAS, "score_model": score, "n0": 10, "n": 50, **options}
    task = LitCertification(classifier, output=str(folder), **settings)
    data = Digits(eval_batch_size=batch, test_size=N)
    data.shard = shard
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=folder, limit_test_batches=limit,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")  # whatever other tests of this process have left there
        return trainer.test(task, data, verbose=False)


def told(folder):
    return [{**row, "seconds": 0, "run": 0} for row in read_certificates(folder)[1]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, certify(folder)[0]


def test_certificates_are_those_of_the_algorithm(whole):
    folder, metrics = whole
    rows = told(folder)
    assert [(row["sigma"], row["index"]) for row in rows] == [(s, k) for s in SIGMAS for k in range(N)]
    classifier, data = NearestMean(), Digits().load("test")
    task = LitCertification(classifier, 0.4, GaussianMixtureScore(classifier.means, 0.2), n0=10, n=50)
    x, y = data[2][:2]
    found = Certification(10, 50).certify(task.defenses[0], 0.4, x[None], 2, 0, 3)
    row = rows[N + 2]
    assert (row["label"], row["selected"], row["count"]) == (int(y), found.selected, found.count)
    assert row["radius"] == found.radius and row["prediction"] == found.prediction
    right = sum(row["prediction"] == row["label"] for row in rows[:N]) / N
    assert metrics["certified/clean sigma 0.2"] == pytest.approx(right)
    assert {"certified.md", "certified.csv", "certified.png"} <= {file.name for file in folder.iterdir()}


def test_neither_the_batch_nor_shards_nor_a_stop_change_a_certificate(whole, tmp_path):
    certify(tmp_path / "batch", batch=1, slots=13)
    assert told(tmp_path / "batch") == told(whole[0])
    certify(tmp_path / "stopped", limit=1)
    file = tmp_path / "stopped/certificates-0.jsonl"
    content = file.read_bytes()
    assert len(content.splitlines()) == 2 * 3
    file.write_bytes(content[:-25])  # killed while it wrote
    certify(tmp_path / "stopped")
    assert told(tmp_path / "stopped") == told(whole[0])
    for number in (1, 0):
        certify(tmp_path / "shards", Shard(number, 2))
        assert (tmp_path / "shards/certified.md").exists() == (number == 0)
    assert told(tmp_path / "shards") == told(whole[0])


def test_other_settings_are_refused(whole):
    for options in ({"n": 60}, {"alpha": 0.01}, {"sigma": [0.2, 0.5]}):
        with pytest.raises(ValueError, match=r"holds|differ|other"):
            certify(whole[0], **options)


@pytest.mark.parametrize("kind", [DP_DDIM, "recipe", Identity])
def test_a_purifier_takes_the_place_of_the_single_step(kind, tmp_path):
    score = GaussianMixtureScore(NearestMean().means, 0.2)
    purifier = (lambda model: PurSAMERE(model, sigmas=[0.3, 0.1])) if kind == "recipe" else kind(score)
    given = score if kind == "recipe" else None
    certify(tmp_path, sigma=0.2, purifier=purifier, score_model=given, limit=1, n=20)
    assert len(told(tmp_path)) == 3
    settings = read_certificates(tmp_path)[0]["defenses"]["sigma 0.2"]["purifier"]
    assert settings["class"] == "SmoothedPurifier"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"score_model": None}, "nothing takes the noise off: name a `model.score_model`, or a `model.purifier`"),
        ({"purifier": Identity()}, "told twice: Identity needs no score model of the test"),
        ({"sigma": []}, r"sigma must be a number, or several different ones; got \[\]"),
        ({"sigma": [0.2, 0.2]}, "several different ones"),
        ({"sigma": 0.0}, "needs sigma above 0; got 0.0"),
        ({"alpha": 1.0}, "alpha is the probability"),
        ({"slots": 0}, "needs slots of at least 1 draw; got 0"),
        ({"output": ""}, "LitCertification needs an output, a folder"),
    ],
)
def test_nonsense_is_refused(options, line):
    given = {"score_model": GaussianMixtureScore(torch.rand(2, 1, 8, 8), 0.2), **options}
    with pytest.raises(ValueError, match=line):
        LitCertification(nn.Identity(), **given)


ARGS = ["--config=configs/digits/certify.yaml", "--trainer.logger=false", "--data.test_size=2", "--model.n=20"]


def test_the_command_line(tmp_path, capsys, monkeypatch, repository_root):
    monkeypatch.chdir(repository_root)
    args = [
        *ARGS,
        f"--model.output={tmp_path}/out",
        "--model.n0=5",
        "--model.sigma=0.25",
        "--data.eval_batch_size=auto",
    ]
    assert main(["certify", *args]) == 0
    out = capsys.readouterr().out
    assert "certified, sigma 0.25 | 2" in out and f"next: lit-pursamere report {tmp_path}/out ATTACKED" in out
    assert main(["report", f"{tmp_path}/out"]) == 0
    assert "certified, sigma 0.25 | 2" in capsys.readouterr().out
    assert main(["certify", *args]) == 0  # goes on at the size of batch that it found
    assert len(told(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["certify", "--config=configs/digits/robustness.yaml"], "certify needs a LitCertification.*LitRobustness"),
        (["certify", *ARGS, "--model.sigma=9"], "NCSNv2Score knows noise of sigma 0.01 to .*noise of sigma 9"),
        (["certify", *ARGS, "--model.n0=0"], "needs n0 >= 1 and n >= 1 draws; got 0 and 20"),
        (["certify", *ARGS, "--model.sgima=1"], "LitCertification takes no 'sgima'; did you mean sigma?"),
        (["audit", *ARGS[:2]], "audit needs the configuration of a `test`; its model is LitCertification"),
    ],
)
def test_mistakes_are_one_line(args, line, capsys, monkeypatch, repository_root):
    monkeypatch.chdir(repository_root)
    assert main(args) == 1
    assert re.search(line, capsys.readouterr().err)


def test_an_estimate_counts_every_draw(capsys, monkeypatch, repository_root):
    monkeypatch.chdir(repository_root)
    assert main(["estimate", "certify", *ARGS, "--model.n=900", "--model.sigma=[0.2,0.3]"]) == 0
    out = capsys.readouterr().out
    assert "sigma 0.2, draws" in out and "| 2,000 x 100 " in out
    assert json.dumps(out).count("2,000 x 100") == 2
