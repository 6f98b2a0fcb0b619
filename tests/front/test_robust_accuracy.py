"""Robust accuracy during a fit: the numbers of the library's evaluation, and a training that does not notice."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lit_pursamere import PGD, Attack, Defense, Identity, Outcome, RobustAccuracy, ThreatModel
from lit_pursamere.evaluation import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:The dirpath has changed")
THREAT = "linf 0.1"
BPDA = {"PGD": PGD(view="bpda", steps=2)}
MEAN, STD = 0.5, 0.25


class Net(pl.LightningModule):
    """Somebody's module: a part is frozen, another stays in evaluation mode, its steps draw from all generators."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        parts = nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        self.body = nn.Sequential(nn.Flatten(), *parts)
        self.body[1].weight.requires_grad_(False)
        self.logged = {}

    def forward(self, x):
        return self.body(x)

    def training_step(self, batch, batch_idx):
        self.body[2].eval()
        x, y = batch
        drawn = 0.1 * torch.randn_like(x) + 0.01 * random.random() + 0.01 * float(np.random.rand())
        return F.cross_entropy(self(x + drawn), y)

    def validation_step(self, batch, batch_idx):
        self.log("loss", F.cross_entropy(self(batch[0]), batch[1]))

    def on_validation_start(self):
        self.body[4].train()  # dropout in validations

    def on_validation_epoch_end(self):
        assert self.body[4].training

    def on_validation_end(self):
        if not self.trainer.sanity_checking:
            found = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            self.logged[self.current_epoch] = {name: v for name, v in found.items() if name.startswith("robustness/")}

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class Still(Net):
    """Draws nothing."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.eval()(batch[0]), batch[1])


class Drawing(Attack):
    """Uses up and seeds all generators."""

    def perturb(self, view, x, y, progress):
        np.random.seed(0)
        random.seed(0)
        torch.manual_seed(0)
        return Outcome(x, x + 0.01 * torch.rand_like(x))


def data(count=20):
    generator = torch.Generator().manual_seed(1)
    return torch.rand((count, 1, 4, 4), generator=generator), torch.randint(3, (count,), generator=generator)


def fit(folder, *callbacks, epochs=2, resume=None, normalised=False, kind=Net, **options):
    """Fit for three steps an epoch; the first module, and what it logged by epoch."""
    pl.seed_everything(3)
    x, y = data()
    x = (x - MEAN) / STD if normalised else x
    loaders = (
        DataLoader(TensorDataset(x[:12], y[:12]), 4, shuffle=kind is Net),
        DataLoader(TensorDataset(x[12:], y[12:]), 3),
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, default_root_dir=folder, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[*callbacks], **{"enable_checkpointing": False, **options},
    )  # fmt: skip
    module = kind()
    trainer.fit(module, *loaders, ckpt_path=resume)
    return module


def expected(classifier, images, seed=0, purifier=None):
    """What the library's own evaluation says."""
    attacks = {name: attack.within(ThreatModel.of(THREAT)) for name, attack in BPDA.items()}
    rows = evaluate(Defense(purifier or Identity(), classifier), attacks, *images, batch_size=128, seed=seed)
    votes = {name: [row["votes_any"] or 0 if name != "clean" else row["votes_last"] for row in rows
                    if row["attack"] == name] for name in ("clean", "PGD")}  # fmt: skip
    return {f"robustness/{name}": pytest.approx(np.mean(each)) for name, each in votes.items()}


def same(first, second):
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_the_training_does_not_notice(tmp_path):
    plain = fit(tmp_path)
    watched = fit(tmp_path, RobustAccuracy({"drawing": Drawing(view="gray"), **BPDA}, THREAT, n=5))
    assert same(plain, watched)
    assert [p.requires_grad for p in watched.parameters()] == [p.requires_grad for p in plain.parameters()]
    assert [m.training for m in watched.modules()] == [m.training for m in plain.modules()]
    for mine, theirs in zip(watched.parameters(), plain.parameters(), strict=True):
        assert mine.grad is theirs.grad is None or torch.equal(mine.grad, theirs.grad)
    assert watched.logged.keys() == {0, 1}


def test_it_logs_what_the_evaluation_says_on_the_first_images_of_the_fit(tmp_path):
    module = fit(tmp_path, RobustAccuracy(BPDA, THREAT, n=5), epochs=1)
    x, y = data()
    assert module.logged[0] == expected(module, (x[12:17], y[12:17]))
    assert module.logged[0]["robustness/clean"] > 0 and len(module.logged[0]) == 2


def test_normalised_images_are_brought_back_and_given_ones_are_taken_as_they_are(tmp_path):
    x, y = data()

    class Behind(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner((x - MEAN) / STD)

    ways = {"of the fit": None, "given": (x[12:17], y[12:17])}
    for way, images in ways.items():
        watch = RobustAccuracy(BPDA, THREAT, normalise=(MEAN, STD), images=images, n=5)
        module = fit(tmp_path, watch, epochs=1, normalised=True)
        assert module.logged[0] == expected(Behind(module), (x[12:17], y[12:17])), way


@pytest.mark.parametrize("before", [True, False])
def test_averaged_weights_are_judged_as_they_are_validated(before, tmp_path):
    watch, average = RobustAccuracy(BPDA, THREAT, n=5), EMAWeightAveraging(decay=0.5)
    module = fit(tmp_path, *((watch, average) if before else (average, watch)), epochs=1)
    x, y = data()
    assert module.logged[0] == expected(module, (x[12:17], y[12:17])), "the fit ends with the average"
    assert not same(module, fit(tmp_path, epochs=1))


def test_a_resumed_run_logs_the_same(tmp_path):
    def run(folder, resume=None):
        last = pl.callbacks.ModelCheckpoint(tmp_path / folder, "{epoch}", save_top_k=-1)
        watch = RobustAccuracy({"PGD": PGD(view="gray", steps=2, start="ball")}, THREAT, n=5)
        return fit(tmp_path, watch, last, epochs=3, resume=resume, kind=Still, enable_checkpointing=True)

    whole = run("whole")
    resumed = run("again", tmp_path / "whole/epoch=0.ckpt")
    assert same(whole, resumed)
    assert resumed.logged == {epoch: whole.logged[epoch] for epoch in (1, 2)} and whole.logged[2]


def test_behind_a_purifier_every_other_epoch_and_for_a_checkpoint_to_monitor(tmp_path):
    best = pl.callbacks.ModelCheckpoint(tmp_path / "best", monitor="robustness/PGD", mode="max", every_n_epochs=2)
    noisy = {"class_path": "Langevin", "init_args": {"step_size": 1e-5, "sigmas": {
        "sigma_max": 0.2, "sigma_min": 0.01, "count": 4, "first": 0.1, "last": 0.02, "stride": 1}}}  # fmt: skip
    score = {"class_path": "lit_pursamere.diffusion.GaussianMixtureScore",
             "init_args": {"means": torch.full((1, 1, 4, 4), 0.5).tolist(), "std": 0.2}}  # fmt: skip
    watch = RobustAccuracy(BPDA, THREAT, purifier=noisy, score_model=score, n=4, every=2)
    module = fit(tmp_path, watch, best, enable_checkpointing=True)
    assert not module.logged[0] and module.logged[1].keys() == {"robustness/clean", "robustness/PGD"}
    assert watch.evaluations == 4, "the purifier draws noise"
    assert best.best_model_score is not None


class Broken(Attack):
    """Always fails."""

    def perturb(self, *arguments):
        raise RuntimeError("no more memory")


def test_an_attack_that_fails_is_told_once_and_the_fit_goes_on(tmp_path):
    watch = RobustAccuracy({"broken": Broken(view="gray"), **BPDA}, THREAT, n=4)
    with pytest.warns(UserWarning, match="robustness/broken is not logged, it failed: no more memory") as told:
        module = fit(tmp_path, watch)
    assert len([each for each in told if "no more memory" in str(each.message)]) == 1
    assert module.logged[1].keys() == {"robustness/clean", "robustness/PGD"}
    assert same(module, fit(tmp_path))


@pytest.mark.parametrize(("settings", "message"), [
    ({"attacks": "pgd20_bpd"}, "pgd20_bpd"),
    ({"attacks": {"clean": PGD()}}, "cannot be named 'clean'"),
    ({"attacks": PGD(view="surrogate")}, "the view surrogate needs a purifier"),
    ({"purifier": "pursamer"}, "pursamer"),
    ({"normalise": (0.5, 0.5)}, r"lie in \[0, 1\], so `forward` does not get normalised ones"),
])  # fmt: skip
def test_nonsense_ends_the_fit_before_its_first_step(settings, message, tmp_path):
    from argparse import ArgumentError

    class Never(pl.Callback):
        def on_train_start(self, trainer, pl_module):
            pytest.fail("it has begun")

    with pytest.raises((ValueError, ArgumentError), match=message):
        fit(tmp_path, RobustAccuracy(**{"attacks": BPDA, "threat": THREAT, "n": 4, **settings}), Never())


def test_bad_numbers():
    with pytest.raises(ValueError, match="n, every, evaluations and batch_size of at least 1; got 0, 1, None, 128"):
        RobustAccuracy(n=0)


SPREAD = """
import json, sys
import importlib.util as util, pytorch_lightning as pl
from torch.utils.data import DataLoader, TensorDataset

spec = util.spec_from_file_location("shared", sys.argv[1])
shared = util.module_from_spec(spec)
spec.loader.exec_module(shared)
x, y = shared.data()
train, val = (DataLoader(TensorDataset(x[part], y[part]), 3) for part in (slice(0, 12), slice(12, 20)))
given = (x[12:15], y[12:15]) if sys.argv[2] == "given" else None
watch = shared.RobustAccuracy(shared.BPDA, shared.THREAT, images=given, n=8)
trainer = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[watch],
)
module = shared.Still()
trainer.fit(module, train, val)
if trainer.is_global_zero:
    count = 3 if given else 8
    again = shared.expected(module, (x[12 : 12 + count], y[12 : 12 + count]))
    assert module.logged[0] == again, (module.logged, again)
    print("the same")
"""


@pytest.mark.slow
@pytest.mark.parametrize("images", ["of the fit", "given"])
def test_two_processes_log_the_accuracy_on_the_images_of_both(images, tmp_path):
    (tmp_path / "spread.py").write_text(SPREAD)
    command = [sys.executable, tmp_path / "spread.py", __file__, images]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.stdout.endswith("the same\n"), done.stderr
