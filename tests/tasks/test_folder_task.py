"""A task that writes to a folder keeps others out of it while it runs, and for no longer, however it ends."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from torch.utils.data import DataLoader

from lit_pursamere.store import ResultsFolder
from lit_pursamere.tasks.folder_task import FolderTask


class Toy(FolderTask):
    """Opens its folder, and then fails with an error, if there is one."""

    def __init__(self, output, error=None):
        super().__init__(output)
        self.error, self.enabled = error, None

    def open(self):
        self.folder = ResultsFolder(self.output, {"a": 1}, self.trainer.global_rank)

    def on_test_start(self):
        self.open_in_turn()

    def test_step(self, batch, batch_idx):
        self.enabled = self.trainer.progress_bar_callback.is_enabled
        with pytest.raises(OSError, match="another run"):
            ResultsFolder(self.output)
        if self.error is not None:
            raise self.error


def run(task, tmp_path):
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_model_summary=False, default_root_dir=tmp_path,
        callbacks=[TQDMProgressBar()],
    )  # fmt: skip
    try:
        trainer.test(task, DataLoader(torch.zeros(1, 1)), verbose=False)
    finally:
        assert trainer.progress_bar_callback.is_enabled, "Lightning has its bar back"
        ResultsFolder(task.output).release()


@pytest.mark.parametrize("error", [None, ValueError("mistake"), SystemExit("told to stop"), MemoryError()])
def test_the_folder_is_closed_however_the_run_ends(tmp_path, error):
    task = Toy(tmp_path / "out", error)
    if error is None:
        run(task, tmp_path)
    else:
        with pytest.raises(type(error)):
            run(task, tmp_path)
    assert task.enabled is False, "the task shows its own progress"
    assert len((tmp_path / "out/environment.jsonl").read_text().splitlines()) == 1


def test_a_folder_that_is_refused_is_left_as_it_was(tmp_path):
    ResultsFolder(tmp_path / "out", {"a": 2}).release()
    with pytest.raises(ValueError, match="a: there 2, now 1"):
        run(Toy(tmp_path / "out"), tmp_path)
    assert not (tmp_path / "out/environment.jsonl").exists()


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_a_precision_that_rounds_pixels_is_refused_before_the_work(precision, tmp_path):
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_model_summary=False, default_root_dir=tmp_path, precision=precision
    )
    with pytest.raises(ValueError, match=f"precision {precision} rounds pixels.*take one of 32-true.*bf16-mixed"):
        trainer.test(Toy(tmp_path / "out"), DataLoader(torch.zeros(1, 1)), verbose=False)
    assert not (tmp_path / "out").exists()
