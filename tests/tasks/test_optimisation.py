"""An own network, fine-tuned: it starts from weights, optimisers and schedules are of any class; it resumes exactly."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import ReduceLROnPlateau
from safetensors import safe_open
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR
from torch.utils.data import DataLoader

from lit_pursamere.cli.main import main
from lit_pursamere.data import ArrayDataset, ImageDataModule
from lit_pursamere.shipped import home
from lit_pursamere.tasks import LitClassifier
from lit_pursamere.tasks.deciding import deciding
from lit_pursamere.weights import save_weights, sha256, state_digest

pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory", "ignore:The dirpath has changed", "ignore:.*using `ckpt_path`", "ignore:.*'interval'"
)


class Random(ImageDataModule):
    """14 random images, 2 of them for validation."""

    name, num_classes, channels, image_size, class_names = "random", 2, 1, 4, tuple("ab")

    def load(self, split):
        return ArrayDataset(torch.rand((14, 1, 4, 4), generator=torch.Generator().manual_seed(0)), torch.arange(14) % 2)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


def fit(task, folder, epochs=3, resume=None, keep=False):
    """Train, three steps an epoch; keeps a checkpoint of each step if asked to."""
    pl.seed_everything(3)
    each = pl.callbacks.ModelCheckpoint(
        folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False
    )
    last = pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, default_root_dir=folder, logger=False, inference_mode=False,
        enable_checkpointing=keep, callbacks=[each, last] if keep else [], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(task, Random(batch_size=4, val_size=2), ckpt_path=resume)
    return task


def test_what_is_meant_by_default_named_gives_the_same_weights(tmp_path):
    def factor(epoch):
        return 0.2 ** (epoch >= 1)

    sgd, steps = partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4), partial(LambdaLR, lr_lambda=factor)
    settings = [{"milestones": [1]}, {"optimizer": sgd, "milestones": [1]}, {"optimizer": sgd, "scheduler": steps}]
    digests = [state_digest(fit(LitClassifier(network(), **each), tmp_path).classifier) for each in settings]
    assert len(set(digests)) == 1
    other = fit(LitClassifier(network(), optimizer=partial(AdamW, lr=0.1), milestones=[1]), tmp_path)
    assert state_digest(other.classifier) not in digests


def test_what_a_scheduler_monitors_must_be_logged(tmp_path):
    task = LitClassifier(network(), scheduler=partial(ReduceLROnPlateau, monitor="val/los"))
    with pytest.raises(ValueError, match="'val/los', which no validation logs; known: val/accuracy_clean, val/loss"):
        fit(task, tmp_path)


def test_the_linear_rule_holds_for_any_optimiser(tmp_path):
    task = LitClassifier(network(), optimizer=partial(AdamW, lr=0.1), lr_reference_batch=8)
    assert fit(task, tmp_path, epochs=1).trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.05)


SCHEDULES = {
    "none": None,
    "cosine": partial(CosineAnnealingLR, T_max=3),
    "one cycle": partial(OneCycleLR, max_lr=0.1, total_steps=4),  # changes betas, too
    "plateau": partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=10.0),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_run_repeats_the_uninterrupted_one(schedule, tmp_path):
    def task():
        return LitClassifier(
            network(), optimizer=partial(AdamW, lr=0.1), scheduler=SCHEDULES[schedule], milestones=[1], ema_decay=0.9
        )

    whole = fit(task(), tmp_path, keep=True)
    rates = whole.trainer.optimizers[0].param_groups[0]
    assert rates["lr"] != 0.1, "the schedule is followed"
    points = ["step=2", "epoch=1"]
    if schedule == "plateau":  # listens to validations
        points += ["step=3", "step=7", "epoch=0"]
    for name in points:
        resumed = fit(task(), tmp_path / "again", resume=tmp_path / f"{name}.ckpt")
        assert state_digest(resumed) == state_digest(whole), name
        assert resumed.trainer.optimizers[0].param_groups[0]["lr"] == rates["lr"]


@pytest.mark.parametrize(("settings", "message"), [
    ({}, "the checkpoint's optimizers are AdamW, and now SGD; .* as `model.checkpoint`"),
    ({"optimizer": partial(AdamW, lr=0.1)}, "schedulers are CosineAnnealingLR, and now LambdaLR"),
    ({"optimizer": partial(AdamW, lr=0.1), "scheduler": partial(CosineAnnealingLR, T_max=4)}, "and T_max would be"),
    ({"optimizer": partial(AdamW, lr=0.2), "scheduler": partial(CosineAnnealingLR, T_max=3)}, "and base_lrs, last_lr"),
])  # fmt: skip
def test_a_state_of_another_kind_is_not_continued(settings, message, tmp_path):
    begun = {"optimizer": partial(AdamW, lr=0.1), "scheduler": partial(CosineAnnealingLR, T_max=3)}
    fit(LitClassifier(network(), **begun), tmp_path, epochs=1, keep=True)
    with pytest.raises(ValueError, match=message):
        fit(LitClassifier(network(), **settings), tmp_path, resume=tmp_path / "step=2.ckpt")


def test_other_numbers_of_the_same_optimiser_hold_from_there_on(tmp_path):
    fit(LitClassifier(network(), optimizer=partial(AdamW, lr=0.1)), tmp_path, epochs=1, keep=True)
    task = LitClassifier(network(), optimizer=partial(AdamW, lr=0.3, weight_decay=0.5), milestones=[1])
    (group,) = fit(task, tmp_path, resume=tmp_path / "step=2.ckpt").trainer.optimizers[0].param_groups
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.2 * 0.3), 0.5)


def test_it_starts_from_weights_that_are_there(tmp_path):
    file = tmp_path / "start.safetensors"
    save_weights(network(seed=7), file)
    export = str(tmp_path / "end.safetensors")
    task = LitClassifier(network(), checkpoint=str(file), export=export, optimizer=partial(AdamW, lr=0.1))
    assert state_digest(task.classifier) == state_digest(network(seed=7))
    whole = fit(task, tmp_path, keep=True)
    with safe_open(export, "pt") as content:
        card = content.metadata()
    assert card["started_from"] == f"start.safetensors, sha256 {sha256(file)}"
    assert card["optimizer"].startswith("AdamW(lr=0.1, betas=") and "lr" not in card and "scheduler" not in card
    again = LitClassifier(network(), checkpoint=str(file), optimizer=partial(AdamW, lr=0.1))
    assert state_digest(fit(again, tmp_path, resume=tmp_path / "step=5.ckpt")) == state_digest(whole)
    with pytest.raises(ValueError, match="does not fit this Sequential: 2 shapes differ"):
        LitClassifier(nn.Sequential(*network()[:5], nn.Linear(8, 3)), checkpoint=str(file))


@pytest.mark.parametrize("inside", [(), ("score_model",), ("objective", "classifier")], ids=str)
def test_the_weights_that_it_starts_from_or_asks_decide_not_their_place(tmp_path, inside):
    def told(name, seed):
        save_weights(network(seed), tmp_path / name)
        given = settings = {"checkpoint": str(tmp_path / name), "lr": 0.1}
        for part in reversed(inside):
            settings = {part: {"class_path": part, "init_args": settings}}
        config = {
            "model": {"class_path": "Lit", "init_args": settings},
            "data": {"class_path": "Random"},
            "trainer": {},
        }
        decided = deciding(config)["model"]
        assert given["checkpoint"] == str(tmp_path / name), "the configuration is as it was"
        return decided

    assert told("a.safetensors", 0) == told("b.safetensors", 0) != told("c.safetensors", 1)


def test_validation_loss_is_that_of_equation_17(tmp_path):
    x, y = torch.rand(5, 2, 1, 4, 4), torch.tensor([0, 1, 0, 1, 1])
    task = LitClassifier(network()).eval()
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
    loader = DataLoader(list(zip(x, y, range(5), strict=True)), 4)
    found = trainer.validate(task, loader, verbose=False)[0]["val/loss"]
    with torch.no_grad():
        expected = (F.cross_entropy(task(x[:, 0]), y) + F.cross_entropy(task(x[:, 1]), y)) / 2
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_all_of_it_by_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    start = home("checkpoints") / "digits/classifier.safetensors"
    command = [
        "fit", "--config=digits/classifier", "--data.purified=null", "--data.val_size=0", "--data.train_size=64",
        "--trainer.max_epochs=1", "--model.export=net.safetensors", "--trainer.logger.save_dir=logs",
        "--trainer.enable_progress_bar=false", f"--model.checkpoint={start}", "--model.optimizer=AdamW",
        "--model.optimizer.lr=1e-4", "--model.scheduler=CosineAnnealingLR", "--model.scheduler.T_max=1",
    ]  # fmt: skip
    assert main(command) == 0
    with safe_open("net.safetensors", "pt") as content:
        card = content.metadata()
    assert card["optimizer"].startswith("AdamW(lr=0.0001") and card["scheduler"] == "CosineAnnealingLR"
    for options, *messages in (
        (["--model.optimizer.weight_decay=0", "--model.scheduler.T_max=2"],
         "weight_decay: there 0.01, now 0", "T_max: there 1, now 2"),
        (["--model.optimizer.learning=1"], "optimizer\": Option 'learning' is not accepted"),
    ):  # fmt: skip
        capsys.readouterr()
        assert main([*command, *options]) == 1
        error = capsys.readouterr().err.splitlines()[0]
        assert all(message in error for message in messages), error
