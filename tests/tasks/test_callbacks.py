"""A training shows how far all of it is: a bar on a terminal, plain lines at most twice a minute in a log."""

from __future__ import annotations

import io
import sys
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from torch import nn
from torch.utils.data import DataLoader

from lit_pursamere.progress import Progress
from lit_pursamere.tasks import LitClassifier, callbacks

STEPS = 10  # of an epoch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow(LitClassifier):
    """A step takes ten seconds by this clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
        self.clock = clock

    def training_step(self, batch, batch_idx):
        self.clock.now += 10
        return super().training_step(batch, batch_idx)


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Train for some epochs; returns the trainer."""
    clock = Clock()
    monkeypatch.setattr(callbacks, "Progress", partial(Progress, clock=clock))
    images = [(torch.full((1, 2, 2), k / 20), k % 2, k) for k in range(20)]

    def run(epochs: int, ckpt_path: str | None = None, bars: tuple[pl.Callback, ...] = ()) -> pl.Trainer:
        trainer = pl.Trainer(
            accelerator="cpu", max_epochs=epochs, logger=False, enable_model_summary=False,
            default_root_dir=tmp_path, callbacks=[ModelCheckpoint(tmp_path, "last"), *bars],
        )  # fmt: skip
        loader = DataLoader(images, 2)
        trainer.fit(Slow(clock), loader, loader, ckpt_path=ckpt_path)
        return trainer

    return run


def test_a_log_gets_plain_lines_about_all_epochs_at_most_twice_a_minute(fit, monkeypatch, capsys):
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    fit(2)
    lines = log.getvalue().splitlines()
    assert len(lines) == 2 * STEPS * 10 // 30, "200 seconds, a line every half minute"
    assert lines[0].startswith("fit: 3 of 20 steps, 02:50 left, epoch 1 of 2, train/loss 0.")
    assert lines[-1].startswith("fit: 18 of 20 steps, 00:20 left, epoch 2 of 2, ") and "val/accuracy_clean" in lines[-1]
    assert "Epoch" not in capsys.readouterr().out, "Lightning's bar is silent"


def test_what_was_done_before_an_interruption_counts_but_tells_nothing_of_the_time(fit, tmp_path, monkeypatch):
    fit(1)
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    fit(2, ckpt_path=str(tmp_path / "last.ckpt"))
    assert log.getvalue().splitlines()[0].startswith("fit: 13 of 20 steps, 01:10 left, epoch 2 of 2, ")


def test_a_terminal_has_one_bar_of_the_whole_training(fit, monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    made = []
    monkeypatch.setattr("tqdm.auto.tqdm", lambda **options: made.append(FakeBar(**options)) or made[-1])
    bar = fit(2).progress_bar_callback
    (whole,) = [one for one in made if one.desc == "fit"]
    assert (whole.total, whole.n, whole.closed) == (2 * STEPS, 2 * STEPS, True)
    assert any(note.startswith("epoch 2 of 2, train/loss ") for note in whole.notes)
    assert [one.n for one in made if one.desc == "validate"] == [STEPS, STEPS]
    assert "Epoch" not in capsys.readouterr().out
    assert bar is not None and bar.is_enabled, "it is there again for whoever uses the trainer next"


class FakeBar:
    """What tqdm is asked for."""

    def __init__(self, desc, total=None, **unused) -> None:
        self.desc, self.total, self.n, self.initial = desc, total, 0, 0
        self.notes: list[str] = []
        self.closed = False

    def update(self, count) -> None:
        self.n += count

    def set_postfix_str(self, text, refresh) -> None:
        self.notes.append(text)

    def close(self) -> None:
        self.closed = True


def test_a_bar_of_ones_own_is_left_alone(fit, monkeypatch, capsys):
    class Mine(TQDMProgressBar):
        pass

    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    fit(1, bars=(Mine(),))
    assert log.getvalue() == "" and "Epoch 0" in capsys.readouterr().out
