"""LitScoreModel is the official NCSNv2 training: same losses, weights and moving average after three steps. A resumed
run is an uninterrupted one, for every objective."""

from itertools import pairwise

import pytest
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from lit_pursamere.data import ArrayDataset, ImageDataModule
from lit_pursamere.diffusion import (
    ADBMObjective,
    ADDTLinfObjective,
    ADDTObjective,
    AutoencoderScore,
    DAEObjective,
    DDPMObjective,
    DDPMppScore,
    DDPMScore,
    EDMObjective,
    EDMScore,
    NCSNObjective,
    NCSNv2Score,
    NoiseLevels,
    SDAEObjective,
    VPObjective,
    expected_reconstruction_error,
)
from lit_pursamere.networks import DenoisingAutoencoder, WideResNet
from lit_pursamere.store.manifest import settings_of
from lit_pursamere.tasks import LitScoreModel
from lit_pursamere.tasks.callbacks import Clock
from lit_pursamere.tasks.training import average
from lit_pursamere.weights import inspect_weights, load_weights, state_digest

SIZE = {"channels": 1, "image_size": 8}
TINY = {"ngf": 2, **SIZE}
TINY_DDPMPP = {"nf": 8, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": (4,), **SIZE}
TINY_DDPM = {
    "block_out_channels": (8, 8),
    "attention": (False, True),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    **SIZE,
}
TINY_EDM = {"model_channels": 8, "channel_mult": (1, 1), "num_blocks": 1, "attn_resolutions": (4,), **SIZE}


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

    def draw(self, x, labels=None, generator=None):
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
    objective = NCSNObjective(NoiseLevels(1.0, 0.1, 4))
    task = LitScoreModel(NCSNv2Score(**TINY), objective, export=str(tmp_path / "score.safetensors"))
    loader = DataLoader(Recorded(torch.rand(8, 1, 8, 8)), 4)
    return task, loader


def test_three_official_steps(golden, tmp_path):
    start = load_file(golden / "ncsnv2/cifar10_small_weights.safetensors")
    reference = load_file(golden / "ncsnv2/cifar10_small_train3.safetensors")
    sigmas = start.pop("sigmas")
    score_model = NCSNv2Score(ngf=8)
    score_model.network.load_state_dict(start)
    draws = [(sigmas[reference[f"labels_{i}"]], reference[f"noise_{i}"].unsqueeze(0), 0.0) for i in range(3)]
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
    ema, raw = NCSNv2Score(**TINY), NCSNv2Score(**TINY)
    file = next(tmp_path.rglob("epoch*.ckpt"))
    load_weights(ema.network, file, "ema")
    load_weights(raw.network, file, "raw")
    a, b = (torch.cat([p.flatten() for p in model.parameters()]) for model in (ema, raw))
    assert not torch.equal(a, b)


def test_export_is_the_average_and_loads(tmp_path, tiny):
    task, loader = tiny
    quiet_trainer(tmp_path, max_epochs=1).fit(task, loader, loader)
    again = NCSNv2Score(**TINY, checkpoint=str(tmp_path / "score.safetensors"))
    for mine, theirs in zip(again.parameters(), task.score_model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_validation_reports_every_band(tmp_path, tiny):
    task, loader = tiny
    metrics = quiet_trainer(tmp_path).validate(task, loader, verbose=False)[0]
    bands = [name for name in metrics if name.startswith("val/band_")]
    assert len(bands) == 4
    mean = sum(metrics[name] for name in bands) / 4  # errors are per pixel, the loss is half their sum over 64 pixels
    assert metrics["val/loss"] == pytest.approx(0.5 * 64 * mean, rel=1e-5)
    assert quiet_trainer(tmp_path).validate(task, loader, verbose=False)[0] == metrics, "validation noise is fixed"


def test_validation_reports_psnr_at_the_levels_asked_for(tmp_path, tiny):
    task, loader = tiny
    names = set(quiet_trainer(tmp_path).validate(task, loader, verbose=False)[0])
    asked = LitScoreModel(task.score_model, task.objective, psnr_at=["25/255", 0.5])
    metrics = quiet_trainer(tmp_path).validate(asked, loader, verbose=False)[0]
    assert set(metrics) - names == {"val/psnr_25", "val/psnr_128"}
    assert metrics["val/psnr_25"] > metrics["val/psnr_128"] > 0
    with pytest.raises(ValueError, match=r"psnr_at above 0; got 1, \[0\.0\]"):
        LitScoreModel(task.score_model, psnr_at=[0.0])


def test_a_learning_rate_without_an_end():
    task = LitScoreModel(NCSNv2Score(**TINY), warmup=9, schedule="inverse_sqrt", decay_from=100)
    factors = [task.lr_factor(step) for step in (0, 8, 9, 100, 400, 10_000)]
    assert factors == pytest.approx([0.1, 0.9, 1.0, 1.0, 0.5, 0.1])
    with pytest.raises(ValueError, match="decay_from >= 1"):
        LitScoreModel(NCSNv2Score(**TINY), decay_from=0)


class Speckles(ImageDataModule):
    """22 random images."""

    name, num_classes, channels, image_size, class_names = "speckles", 2, 1, 8, tuple("ab")

    def load(self, split):
        return ArrayDataset(torch.rand((22, 1, 8, 8), generator=torch.Generator().manual_seed(0)), torch.arange(22) % 2)


def curve(every, build, objective, resume=None, resident=None):
    """Train three epochs of five steps, keeping a checkpoint of every step."""
    pl.seed_everything(3)
    objective = objective() if callable(objective) else objective
    task = LitScoreModel(build(), objective, lr=1e-3, warmup=4, schedule="cosine", ema_decay=0.9, ema_warmup=True)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, callbacks=[every], logger=False, enable_progress_bar=False,
        enable_model_summary=False, inference_mode=False,
    )  # fmt: skip
    data = Speckles(batch_size=4, val_size=2, flip=True, crop=1, resident=resident)
    trainer.fit(task, data, ckpt_path=resume)
    return every.losses, task


def judge():
    """A classifier that is the same whenever it is built."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        return WideResNet(10, 1, num_classes=2, channels=1)


OBJECTIVES = {
    "ncsn": (lambda: NCSNv2Score(**TINY), NCSNObjective(NoiseLevels(5, 0.01, 10))),
    "vp": (lambda: DDPMppScore(**TINY_DDPMPP, dropout=0.3), VPObjective()),
    "edm": (lambda: EDMScore(**TINY_EDM, augment_dim=0, dropout=0.3), EDMObjective()),
    "addt": (lambda: DDPMScore(**TINY_DDPM, dropout=0.3), lambda: ADDTObjective(classifier=judge(), refinements=2)),
    "addt-leak": (
        lambda: EDMScore(**TINY_EDM, augment_dim=0, dropout=0.3),
        lambda: ADDTObjective(EDMObjective(), classifier=judge(), refinements=2, leak_ce_grad=True),
    ),
    "addt-linf": (lambda: DDPMScore(**TINY_DDPM, dropout=0.3), lambda: ADDTLinfObjective(classifier=judge())),
    "adbm": (lambda: DDPMppScore(**TINY_DDPMPP, dropout=0.3), lambda: ADBMObjective(classifier=judge())),
    "dae": (lambda: AutoencoderScore(DenoisingAutoencoder(1, 4)), DAEObjective()),
    "sdae": (lambda: AutoencoderScore(DenoisingAutoencoder(1, 4)), lambda: SDAEObjective(classifier=judge())),
}


WORLDS = [name if name == "dae" else pytest.param(name, marks=pytest.mark.slow) for name in OBJECTIVES]  # the smallest


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("world", WORLDS)
def test_a_resumed_run_repeats_the_uninterrupted_one(tmp_path, world, every_step):
    losses, whole = curve(every_step(tmp_path / "whole"), *OBJECTIVES[world])
    assert sorted(losses) == list(range(15)) and len(set(losses.values())) == 15
    # In an epoch, at its end, and from a checkpoint of the run that was itself resumed at an end.
    for source, step in (("whole", 3), ("whole", 5), ("from5", 8)):
        begin = tmp_path / f"{source}/step={step}.ckpt"
        again, resumed = curve(every_step(tmp_path / f"from{step}"), *OBJECTIVES[world], begin)
        assert again == {k: v for k, v in losses.items() if k >= step}
        for mine, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_run_goes_on_with_images_that_are_read_one_by_one_as_with_resident_ones(tmp_path, every_step):
    begins = {"whole": None, "lazy": tmp_path / "whole/step=3.ckpt", "again": tmp_path / "lazy/step=8.ckpt"}
    losses = {
        name: curve(every_step(tmp_path / name), *OBJECTIVES["ncsn"], begin, resident=begin is None)[0]
        for name, begin in begins.items()
    }
    assert losses["lazy"] == {k: v for k, v in losses["whole"].items() if k >= 3}
    assert losses["again"] == {k: v for k, v in losses["whole"].items() if k >= 8}


@pytest.mark.parametrize(
    "objective", [NCSNObjective(), DDPMObjective(), VPObjective(), EDMObjective(), DAEObjective()], ids=repr
)
def test_the_loss_is_the_weighted_reconstruction_error(objective):
    torch.manual_seed(0)
    task = LitScoreModel(NCSNv2Score(**TINY), objective)
    x = torch.rand(6, 1, 8, 8)
    sigma, noise, extra = task.draw(x)
    assert extra == 0
    expected = [
        objective.weight(s, 64) * expected_reconstruction_error(task.score_model, x[i : i + 1], s, noise[:, i : i + 1])
        for i, s in enumerate(sigma)
    ]
    assert task.loss(x, sigma, noise).item() == pytest.approx(torch.cat(expected).mean().item(), rel=1e-5)


def test_training_an_autoencoder_lowers_its_denoising_error(tmp_path):
    torch.manual_seed(0)
    clean = torch.zeros(8, 1, 8, 8)
    clean[:4, :, :, :4] = clean[4:, :, :4] = 1
    score_model = AutoencoderScore(DenoisingAutoencoder(1, 8), sigma2=0.09)
    task = LitScoreModel(score_model, DAEObjective(0.09), lr=0.01, ema_decay=0.9)
    loader = DataLoader(Recorded(clean), 8)
    before = quiet_trainer(tmp_path).validate(task, loader, verbose=False)[0]
    quiet_trainer(tmp_path, max_epochs=60).fit(task, loader)
    after = quiet_trainer(tmp_path).validate(task, loader, verbose=False)[0]
    assert set(after) == {"val/loss", "val/band_0"}
    assert after["val/loss"] == pytest.approx(0.09 * 64 * after["val/band_0"], rel=1e-5)
    assert after["val/loss"] < 0.3 * before["val/loss"]
    assert task.sample(2, (1, 8, 8)).shape == (2, 1, 8, 8)


def test_learning_rate_warms_up_and_then_falls_to_zero():
    task = LitScoreModel(NCSNv2Score(**TINY), warmup=4, schedule="cosine")
    task._trainer = type("Trainer", (), {"estimated_stepping_batches": 14, "barebones": False})()
    factors = [task.lr_factor(step) for step in range(15)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(a > b for a, b in pairwise(factors[4:])) and factors[-1] == pytest.approx(0)
    assert factors[9] == pytest.approx(0.5)
    constant = LitScoreModel(NCSNv2Score(**TINY), warmup=1)
    assert [constant.lr_factor(step) for step in range(4)] == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", [ADDTObjective, pytest.param(ADBMObjective, marks=pytest.mark.slow), SDAEObjective])
def test_a_frozen_classifier_is_told_and_neither_trained_nor_kept(tmp_path, kind):
    network = judge()
    before = state_digest(network)
    build = OBJECTIVES["sdae" if kind is SDAEObjective else "adbm"][0]
    task = LitScoreModel(
        build(), kind(classifier=network), lr=1e-2, ema_decay=0.9, export=str(tmp_path / "score.safetensors")
    )
    modes = []
    network.register_forward_hook(lambda part, *_: modes.append(part.training))
    loader = DataLoader(Recorded(torch.rand(8, 1, 8, 8)), 4)
    trainer = quiet_trainer(tmp_path, max_epochs=1, checkpoint=True)
    trainer.fit(task, loader, loader)
    assert state_digest(network) == before and modes and not any(modes)
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    (kept,) = tmp_path.rglob("*.ckpt")
    owned = [*torch.load(kept, weights_only=True)["state_dict"], *load_file(tmp_path / "score.safetensors")]
    assert not [name for name in owned if "objective" in name or "classifier" in name]
    card = inspect_weights(tmp_path / "score.safetensors").metadata
    assert card["guided_by"] == f"WideResNet, sha256 {before}" and kind.__name__ in card["objective"]
    assert ("val/loss_attacked" in card) == (kind is not SDAEObjective)
    assert task.objective.classifier is network
    again = (
        AutoencoderScore(DenoisingAutoencoder(1, 4), checkpoint=task.export)
        if kind is SDAEObjective
        else DDPMppScore(**TINY_DDPMPP, dropout=0.3, checkpoint=task.export)
    )
    told = settings_of(again)["training"]  # by which tables know it
    assert told == card["training"] == task.objective.training


def test_noise_that_follows_an_attack_is_validated_with_and_without_it(tmp_path):
    """The noise of both is the same at every validation; a trainer without gradients is refused in a line."""
    torch.manual_seed(0)
    task = LitScoreModel(OBJECTIVES["addt"][0](), OBJECTIVES["addt"][1]())
    loader = DataLoader(Recorded(torch.rand(8, 1, 8, 8)), 4)
    first, second = (quiet_trainer(tmp_path).validate(task, loader, verbose=False)[0] for _ in range(2))
    assert first == second and first["val/loss_attacked"] > 0
    without = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(RuntimeError, match="inference_mode=False"):
        without.validate(task, loader, verbose=False)


def test_betas_reach_the_optimiser_and_the_power_the_average():
    task = LitScoreModel(NCSNv2Score(**TINY), lr=2e-4, betas=(0.95, 0.999), weight_decay=1e-6, ema_power=0.75)
    (group,) = task.configure_optimizers()["optimizer"].param_groups
    assert group["betas"] == (0.95, 0.999) and group["weight_decay"] == 1e-6
    for update, decay in ((1, 0.0), (2, 1 - 2**-0.75), (16, 0.875), (10**8, 0.9999)):
        tensors = [torch.ones(3)]
        average(0.9999, False, tensors, [torch.zeros(3)], torch.tensor(update), power=task.ema_power)
        assert tensors[0] == pytest.approx([decay] * 3)
    for wrong in ({"betas": (1.0, 0.9)}, {"ema_power": 0.0}):
        with pytest.raises(ValueError, match="betas in"):
            LitScoreModel(NCSNv2Score(**TINY), **wrong)


def test_average_with_warmup_follows_its_decay():
    for updates, decay in ((1, 2 / 11), (10, 11 / 20), (1000, 0.9)):
        tensors = [torch.ones(3)]
        average(0.9, True, tensors, [torch.zeros(3)], torch.tensor(updates))
        assert tensors[0] == pytest.approx([decay] * 3)


def test_the_exported_file_carries_its_card(tmp_path, tiny):
    task, loader = tiny
    quiet_trainer(tmp_path, max_epochs=1).fit(task, loader, loader)
    with safe_open(tmp_path / "score.safetensors", "pt") as file:
        card = file.metadata()
    assert card["steps"] == "2" and card["ema_decay"] == "0.999" and "NCSNObjective" in card["objective"]
    assert NCSNv2Score(**TINY, checkpoint=str(tmp_path / "score.safetensors")).trained_at == pytest.approx((0.1, 1.0))
    assert float(card["val/loss"]) > 0 and torch.__version__.startswith(card["torch"])


@pytest.mark.parametrize("wrong", [{"lr": 0}, {"ema_decay": 1.0}, {"sample_every": -1}, {"warmup": -1}])
def test_bad_arguments(wrong):
    with pytest.raises(ValueError, match="LitScoreModel needs"):
        LitScoreModel(NCSNv2Score(**TINY), **wrong)


def test_hours_go_on_after_an_interruption_and_stand_in_the_card_of_the_checkpoint(tmp_path, tiny, monkeypatch):
    task, loader = tiny
    now = {"hours": 0.0, "core_hours": 0.0}

    def tick(clock):
        now["hours"], now["core_hours"] = now["hours"] + 1, now["core_hours"] + 2
        return dict(now)

    monkeypatch.setattr(Clock, "now", tick)
    trainer = quiet_trainer(tmp_path, checkpoint=True, max_epochs=1)
    trainer.fit(task, loader, loader)
    (first,) = tmp_path.rglob("epoch=0*.ckpt")
    card = inspect_weights(first).metadata
    assert float(card["time/hours"]) >= 1 and float(card["time/core_hours"]) == 2 * float(card["time/hours"])
    assert card["score_model"] == "NCSNv2Score" and float(card["val/loss"]) > 0

    now["hours"] += 1000  # the pause does not count
    again = quiet_trainer(tmp_path / "again", checkpoint=True, max_epochs=2)
    again.fit(LitScoreModel(task.score_model, task.objective), loader, loader, ckpt_path=first)
    (second,) = (tmp_path / "again").rglob("epoch=1*.ckpt")
    assert float(card["time/hours"]) < float(inspect_weights(second).metadata["time/hours"]) < 100
    exported = inspect_weights(tmp_path / "score.safetensors").metadata
    assert not [name for name in exported if name.startswith("time/")], "the same run again gives the same file"
