"""Purifying a data set: the same as in memory, whoever stops it and when, and bound to what made it."""

import json

import pytest
import pytorch_lightning as pl
import torch

from lit_pursamere.data import Digits, PurifiedSet
from lit_pursamere.diffusion import GaussianMixtureScore
from lit_pursamere.purifiers import PurSAMERE
from lit_pursamere.store import ResultsFolder
from lit_pursamere.tasks import LitPurification


def world(rho_pur=0.5, **options):
    means = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return PurSAMERE(GaussianMixtureScore(means, 0.3), rho_pur, 0, 1, [0.5, 0.2], **options)


def predict(tmp_path, purifier=None, limit=None, dtype="float16", data=None, name="set", **options):
    task = LitPurification(purifier or world(), str(tmp_path / name), dtype)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        inference_mode=False, limit_predict_batches=limit, default_root_dir=tmp_path, **options,
    )  # fmt: skip
    trainer.predict(task, data or Digits(evaluate="train", eval_batch_size=500), return_predictions=False)
    return PurifiedSet.open(tmp_path / name)


def test_purifies_every_training_image(tmp_path):
    made = predict(tmp_path)
    source = Digits().load("train")
    assert len(made) == len(source) == made.count() == 1400
    expected = world()(source.images[:7])
    torch.testing.assert_close(torch.stack([made[i] for i in range(7)]), expected, atol=5e-4, rtol=0)


def test_a_precision_that_rounds_pixels_is_refused_before_the_work(tmp_path):
    with pytest.raises(ValueError, match="precision bf16-true rounds pixels"):
        predict(tmp_path, precision="bf16-true")
    assert not (tmp_path / "set").exists()


def test_what_was_done_is_said_where_there_is_a_bar(tmp_path, capsys):
    task = LitPurification(world(), str(tmp_path / "set"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_model_summary=False, inference_mode=False,
                         default_root_dir=tmp_path)  # fmt: skip
    trainer.predict(task, Digits(evaluate="train", eval_batch_size=700), return_predictions=False)
    line, folder = capsys.readouterr().out.splitlines()[-1], tmp_path / "set"
    after = f"next: lit-pursamere fit --config FILE --data.purified {folder}"
    assert line == f"1400 of 1400 train images purified in {folder}; {after}"


def test_continues_where_it_stopped(tmp_path):
    half = predict(tmp_path, limit=1)
    assert (half.count(), half.missing()) == (500, [1, 2])
    (tmp_path / "set/part-000001.npy.host-1.part").touch()  # what a killed process leaves
    calls = []
    purifier = world()
    purifier.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))
    before = (tmp_path / "set/part-000000.npy").stat().st_mtime_ns
    whole = predict(tmp_path, purifier)
    assert calls == [500, 400] and whole.missing() == []
    assert (tmp_path / "set/part-000000.npy").stat().st_mtime_ns == before, "what is done is not touched"
    assert not list((tmp_path / "set").glob("*.part"))
    assert len((tmp_path / "set/environment.jsonl").read_text().splitlines()) == 2


def test_fresh_noise_does_not_depend_on_interruptions(tmp_path):
    predict(tmp_path, world().under("fresh"), limit=1)
    again = predict(tmp_path, world().under("fresh"))
    whole = predict(tmp_path, world().under("fresh"), name="whole")
    assert (again.take(again.indices) == whole.take(whole.indices)).all()
    assert (whole.take(range(10)) != whole.take(range(500, 510))).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"purifier": world(0.25)}, r"purifier\.rho_pur: there 0\.5, now 0\.25"),
        ({"purifier": world(lr_max=0.2)}, r"purifier\.lr_max: there 0\.1, now 0\.2"),
        ({"precision": "bf16-mixed"}, r"precision: there '32-true', now 'bf16-mixed'"),
        ({"dtype": "uint8"}, r"dtype: there 'float16', now 'uint8'"),
        ({"data": Digits(evaluate="train", eval_batch_size=400)}, r"part: there 500, now 400"),
        ({"data": Digits(evaluate="val", eval_batch_size=500, val_size=3)}, r"images\.count: there 1400, now 3"),
    ],
    ids=["radius", "rate", "precision", "dtype", "batches", "images"],
)
def test_another_configuration_is_refused(tmp_path, change, message):
    predict(tmp_path, limit=1)
    with pytest.raises(ValueError, match=message):
        predict(tmp_path, limit=1, **change)


def test_other_weights_are_refused(tmp_path):
    predict(tmp_path, limit=1)
    other = world()
    other.score_model.means += 0.01
    with pytest.raises(ValueError, match=r"another configuration \(weights: there "):
        predict(tmp_path, other, limit=1)


@pytest.mark.parametrize("changed", ["images", "labels"])
def test_other_data_under_the_same_name_are_refused(tmp_path, monkeypatch, changed):
    """One image of 1400, none of those whose means are noted."""
    predict(tmp_path, limit=1)
    load = Digits.load

    def other(data, split):
        source = load(data, split)
        if changed == "images":
            source.images[701, 0, 3, 3] = 1 - source.images[701, 0, 3, 3]
        else:
            source.labels[701] = (source.labels[701] + 1) % 10
        return source

    monkeypatch.setattr(Digits, "load", other)
    with pytest.raises(ValueError, match=r"another configuration \(source\.digest: there "):
        predict(tmp_path, limit=1)


def test_two_runs_do_not_write_to_one_folder(tmp_path):
    other = ResultsFolder(tmp_path / "set")
    with pytest.raises(OSError, match=r"another run .* is writing to"):
        predict(tmp_path, limit=1)
    other.release()
    predict(tmp_path, limit=1)


def test_a_loader_that_deals_other_batches_is_refused(tmp_path):
    class Shifted(Digits):
        def predict_dataloader(self):
            return torch.utils.data.DataLoader(dataset=super().predict_dataloader().dataset, batch_size=300)

    with pytest.raises(RuntimeError, match="other batches than the set has parts"):
        predict(tmp_path, data=Shifted(evaluate="train", eval_batch_size=500))


def pairs(tmp_path, **arguments):
    """First training batch of digits and their twins."""
    data = Digits(batch_size=4, purified=str(tmp_path / "set"), val_size=100, **arguments)
    data.setup("fit")
    return data, next(iter(data.train_dataloader()))


def test_pairs_reach_the_classifier(tmp_path):
    made = predict(tmp_path)
    digest = made.manifest["weights"]
    for resident in (True, False):
        data, (x, _, index) = pairs(tmp_path, resident=resident, purified_by={"rho_pur": 0.5, "weights": digest[:8]})
        assert x.shape == (4, 2, 1, 8, 8)
        torch.testing.assert_close(x[:, 1], torch.stack([made[int(i)] for i in index]))
        assert not set(index.tolist()) & set(data.indices("val"))


class Renamed(Digits):
    name = "other digits"


class Reordered(Digits):
    def load(self, split):
        source = super().load(split)
        source.images = source.images.flip(0)
        return source


@pytest.mark.parametrize(
    ("kind", "purified_by", "message"),
    [
        (Renamed, None, "was made from the data 'digits', but this is 'other digits'"),
        (Reordered, None, "was made from other images, or in another order"),
        (Digits, {"rho_pur": 2.0}, r"was made with rho_pur 0\.5, but `purified_by` asks for 2\.0"),
        (Digits, {"weights": "beef"}, r"was made with weights '\w{64}', but `purified_by` asks for 'beef'"),
        (Digits, {"rho_purr": 1}, r"purified_by has no setting 'rho_purr' to ask for; .* has class, .*, rho_pur"),
    ],
    ids=["name", "order", "purifier", "weights", "unknown"],
)
def test_twins_of_other_images_or_another_purifier_are_refused(tmp_path, kind, purified_by, message):
    predict(tmp_path)
    data = kind(purified=str(tmp_path / "set"), purified_by=purified_by)
    data.setup("fit")
    with pytest.raises(ValueError, match=message):
        data.train_dataloader()


def test_twins_of_fewer_images_or_another_split_are_refused(tmp_path):
    predict(tmp_path, data=Digits(evaluate="train", eval_batch_size=50, val_size=1300))
    with pytest.raises(ValueError, match=r"1400 training images, of which 100 are purified in .*, but val_size=100"):
        pairs(tmp_path)
    predict(tmp_path, data=Digits(evaluate="test", eval_batch_size=200), name="test")
    (tmp_path / "set").rename(tmp_path / "train")
    (tmp_path / "test").rename(tmp_path / "set")
    with pytest.raises(ValueError, match="was made from the split 'test', but this is 'train'"):
        pairs(tmp_path)


def test_twins_of_images_that_are_held_out_are_trained_on_only_where_that_was_asked(tmp_path):
    predict(tmp_path, data=Digits(evaluate="val", eval_batch_size=50, val_size=150))
    for asked in (None, {"rho_pur": 0.5}, {"evaluate": "train"}):
        with pytest.raises(
            ValueError, match=r"made with `data\.evaluate val`, of images that are held out from training"
        ):
            pairs(tmp_path, purified_by=asked)
    _, (x, _, index) = pairs(tmp_path, purified_by={"evaluate": "val"})
    held = Digits(val_size=150)
    held.setup("fit")
    assert x.shape == (4, 2, 1, 8, 8) and set(index.tolist()) <= set(held.indices("val"))


def test_an_incomplete_or_damaged_set_does_not_reach_the_classifier(tmp_path):
    predict(tmp_path, limit=2)
    with pytest.raises(ValueError, match=r"lacks 400 of 1400 images \(parts 2 of 3\); run the same"):
        pairs(tmp_path)
    predict(tmp_path)
    file = tmp_path / "set/part-000002.npy"
    content = bytearray(file.read_bytes())
    content[5000] ^= 16
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"part-000002\.npy is damaged"):
        pairs(tmp_path)


def test_manifest_names_what_made_the_set(tmp_path):
    predict(tmp_path, limit=1)
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert (manifest["data"], manifest["split"], manifest["source"]["count"]) == ("digits", "train", 1400)
    made_by = manifest["purifier"]
    assert (made_by["class"], made_by["rho_pur"], made_by["rho_sam"], made_by["sigmas"]) == (
        "PurSAMERE",
        0.5,
        0,
        [0.5, 0.2],
    )
    assert made_by["score_model"]["class"] == "GaussianMixtureScore"
    assert len(manifest["weights"]) == 64
