"""LitScoreModel is the official NCSNv2 training: same losses, weights and moving average after three steps."""

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from lit_pursamere.diffusion import NCSNv2Score, NoiseLevels
from lit_pursamere.tasks import LitScoreModel
from lit_pursamere.weights import load_weights


class Recorded(Dataset):
    """The recorded batches, one image at a time."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], 0, i


class RecordedDraws(LitScoreModel):
    """Takes levels and noise from a recording instead of drawing them."""

    def __init__(self, *args, recorded, **kwargs):
        super().__init__(*args, **kwargs)
        self.recorded = list(recorded)
        self.losses = []

    def draw(self, x):
        return self.recorded.pop(0)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss


def quiet_trainer(tmp_path, checkpoint=False, **options):
    return pl.Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=checkpoint,
        enable_progress_bar=False, enable_model_summary=False, inference_mode=False, **options,
    )  # fmt: skip


@pytest.fixture
def tiny(tmp_path):
    torch.manual_seed(0)
    task = LitScoreModel(NCSNv2Score(2, 1, 8), NoiseLevels(1.0, 0.1, 4), export=str(tmp_path / "score.safetensors"))
    loader = DataLoader(Recorded(torch.rand(8, 1, 8, 8)), 4)
    return task, loader


def test_three_official_steps(golden, tmp_path):
    start = load_file(golden / "ncsnv2/cifar10_small_weights.safetensors")
    reference = load_file(golden / "ncsnv2/cifar10_small_train3.safetensors")
    sigmas = start.pop("sigmas")
    score_model = NCSNv2Score(ngf=8)
    score_model.network.load_state_dict(start)
    draws = [(sigmas[reference[f"labels_{i}"]], reference[f"noise_{i}"].unsqueeze(0)) for i in range(3)]
    task = RecordedDraws(score_model, lr=1e-4, ema_decay=0.999, recorded=draws)
    batches = [reference[f"x_{i}"] for i in range(3)]
    loader = DataLoader(Recorded(torch.cat(batches)), len(batches[0]))
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(task, loader)

    for i in range(3):
        assert task.losses[i] == pytest.approx(reference[f"loss_{i}"].item(), rel=1e-5)
    # training leaves the averaged weights in the module, so this compares the shadow
    difference = torch.cat([
        (value - reference[f"ema.{name}"]).abs().flatten() for name, value in score_model.network.named_parameters()
    ])  # fmt: skip
    moved = torch.cat([
        (start[name] - reference[f"ema.{name}"]).abs().flatten() for name, _ in score_model.network.named_parameters()
    ])  # fmt: skip
    assert moved.max() > 2e-7, "the recording must show that the average moves at all"
    assert difference.max() < 1e-6
    assert difference.norm() < 0.05 * moved.norm()


def test_checkpoint_holds_average_and_raw_weights(tmp_path, tiny):
    task, loader = tiny
    initial = [p.clone() for p in task.score_model.parameters()]
    trainer = quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(task, loader, loader)
    averaged = [p.clone() for p in task.score_model.parameters()]
    trainer = quiet_trainer(tmp_path, max_epochs=2, checkpoint=True)
    trainer.fit(task, loader)
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    assert any(not torch.equal(a, b) for a, b in zip(initial, averaged, strict=True))
    ema, raw = NCSNv2Score(2, 1, 8), NCSNv2Score(2, 1, 8)
    file = next(tmp_path.rglob("epoch*.ckpt"))
    load_weights(ema.network, file, "ema")
    load_weights(raw.network, file, "raw")
    a, b = (torch.cat([p.flatten() for p in model.parameters()]) for model in (ema, raw))
    assert not torch.equal(a, b)


def test_export_is_the_average_and_loads(tmp_path, tiny):
    task, loader = tiny
    quiet_trainer(tmp_path, max_epochs=1).fit(task, loader, loader)
    again = NCSNv2Score(2, 1, 8, checkpoint=str(tmp_path / "score.safetensors"))
    for mine, theirs in zip(again.parameters(), task.score_model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_validation_reports_every_band(tmp_path, tiny):
    task, loader = tiny
    metrics = quiet_trainer(tmp_path).validate(task, loader, verbose=False)[0]
    bands = [name for name in metrics if name.startswith("val/loss_sigma_")]
    assert len(bands) == 4
    assert metrics["val/loss"] == pytest.approx(sum(metrics[name] for name in bands) / 4, rel=1e-5)
    assert quiet_trainer(tmp_path).validate(task, loader, verbose=False)[0] == metrics, "validation noise is fixed"


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"ema_decay": 1.0}, {"sample_every": -1}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match="LitScoreModel needs"):
        LitScoreModel(NCSNv2Score(2, 1, 8), **wrong)
