"""The purified set: every image once, the same as purifying in memory, and continued after an interruption."""

import errno
import json
import os

import pytest
import pytorch_lightning as pl
import torch

from lit_pursamere.data import Digits, PurifiedSet
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.tasks import LitPurification


def world(rho_pur=0.5):
    means = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return PurSAMERE(GaussianMixtureScore(means, 0.3), rho_pur, 0, 1, [0.5, 0.2])


def predict(tmp_path, purifier=None, limit=None, dtype="float16", **data):
    task = LitPurification(purifier or world(), str(tmp_path / "set"), dtype)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        inference_mode=False, limit_predict_batches=limit, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.predict(task, Digits(evaluate="train", eval_batch_size=500, **data), return_predictions=False)
    return PurifiedSet.open(tmp_path / "set")


def test_purifies_every_training_image(tmp_path):
    made = predict(tmp_path)
    source = Digits().load("train")
    assert len(made) == len(source) == 1400
    assert made.done.all()
    expected = world()(source.images[:7])
    torch.testing.assert_close(torch.stack([made[i] for i in range(7)]), expected, atol=5e-4, rtol=0)


def test_continues_where_it_stopped(tmp_path):
    half = predict(tmp_path, limit=1)
    assert half.done.sum() == 500
    with pytest.raises(ValueError, match=r"lacks 900 of 1400 images .*run the same"):
        half.require_complete(range(1400), (1, 8, 8))
    before = half.images[:500].copy()
    calls = []
    purifier = world()
    purifier.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    whole = predict(tmp_path, purifier)
    assert sum(calls) == 900
    assert whole.done.all()
    assert (whole.images[:500] == before).all()


def test_another_purifier_is_refused(tmp_path):
    predict(tmp_path, limit=1)
    with pytest.raises(ValueError, match=r"purifier: there .*rho_pur=0\.5.*now .*rho_pur=0\.25"):
        predict(tmp_path, world(0.25), limit=1)


def test_uint8_rounds_by_at_most_half_a_grey_level(tmp_path):
    made = predict(tmp_path, limit=1, dtype="uint8")
    expected = world()(Digits().load("train").images[:500])
    actual = torch.stack([made[i] for i in range(500)])
    assert (actual - expected).abs().max() <= 0.5 / 255 + 1e-6


def test_damaged_sets(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no purified set in .*lit-pursamere predict"):
        PurifiedSet.open(tmp_path / "nothing")
    predict(tmp_path, limit=1)
    (tmp_path / "set/images.npy").write_bytes(b"short")
    with pytest.raises(ValueError, match="is damaged"):
        PurifiedSet.open(tmp_path / "set")
    (tmp_path / "set/manifest.json").write_text("{")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        PurifiedSet.open(tmp_path / "set")


def test_pairs_reach_the_classifier(tmp_path):
    predict(tmp_path)
    data = Digits(batch_size=4, purified=str(tmp_path / "set"), crop=1, val_size=100)
    data.setup("fit")
    x, _, index = next(iter(data.train_dataloader()))
    assert x.shape == (4, 2, 1, 8, 8)
    assert not set(index.tolist()) & set(data.indices("val"))


def test_manifest_names_what_made_the_set(tmp_path):
    predict(tmp_path, limit=1)
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["data"] == "digits"
    assert manifest["split"] == "train"
    assert "rho_sam=0" in manifest["purifier"]
    assert len(manifest["weights"]) == 64


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve disk space")
def test_a_full_disk_is_noticed_before_work_begins(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for .*images\.npy \(\d+ bytes\): No space left"):
        predict(tmp_path)
    assert not (tmp_path / "set/manifest.json").exists()
