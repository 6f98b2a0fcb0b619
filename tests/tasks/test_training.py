"""A checkpoint that cannot be finished leaves the one before it as it was."""

import errno
import io
import os

import pytest
import pytorch_lightning as pl
import torch

from lit_pursamere.networks import WideResNet
from lit_pursamere.tasks import LitClassifier
from lit_pursamere.tasks.training import WholeCheckpoints


def test_an_unfinished_checkpoint_replaces_nothing(tmp_path, monkeypatch):
    path, writer = tmp_path / "new/last.ckpt", WholeCheckpoints()
    writer.save_checkpoint({"step": 1}, path)

    def cut_short(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        writer.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}


class Full(io.BytesIO):
    """A disk with room for so many bytes."""

    def write(self, content):
        if self.tell() + len(content) > 2000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(content)


@pytest.mark.parametrize("numbers", [400, 4000])  # it is full in a tensor, or in what torch writes last
def test_on_a_full_disk_one_line_says_what_was_being_written(numbers, tmp_path, monkeypatch):
    path, writer, save = tmp_path / "last.ckpt", WholeCheckpoints(), torch.save
    writer.save_checkpoint({"step": 1}, path)
    monkeypatch.setattr(torch, "save", lambda checkpoint, file: save(checkpoint, Full()))
    with pytest.raises(OSError, match=r"cannot write .*last\.ckpt: No space left on device; .* the .*command"):
        writer.save_checkpoint({"step": 2, "weights": torch.zeros(numbers)}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


class Told(io.BytesIO):
    """A file within whose second write the process is told to stop."""

    writes = 0

    def write(self, content):
        done = super().write(content)
        self.writes += 1
        if self.writes == 2:
            raise SystemExit(143)
        return done


def test_who_is_told_to_stop_within_a_checkpoint_stops(tmp_path, monkeypatch):
    """torch would tell of its own book-keeping instead."""
    path, save = tmp_path / "last.ckpt", torch.save
    monkeypatch.setattr(torch, "save", lambda checkpoint, file: save(checkpoint, Told()))
    with pytest.raises(SystemExit, match="143"):
        WholeCheckpoints().save_checkpoint({"weights": torch.zeros(4000)}, path)
    assert not [*tmp_path.iterdir()]


def test_trainings_write_theirs_so(tmp_path):
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, fast_dev_run=1, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    images = [(torch.rand(1, 8, 8), 0, i) for i in range(4)]
    trainer.fit(LitClassifier(WideResNet(10, 1, 2, channels=1)), torch.utils.data.DataLoader(images, 4))
    assert isinstance(trainer.strategy.checkpoint_io, WholeCheckpoints)
