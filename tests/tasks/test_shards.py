"""Shards of a job, in any order, again, with others beside them, leave what one command leaves."""

from __future__ import annotations

import shutil

import pytest
import pytorch_lightning as pl
import torch
import yaml
from torch import nn

from lit_pursamere.attacks import PGD
from lit_pursamere.cli.main import main
from lit_pursamere.data import Digits, PurifiedSet
from lit_pursamere.data.purified_checks import examine
from lit_pursamere.purifiers import Identity
from lit_pursamere.sharding import WHOLE, Shard
from lit_pursamere.store import Records, ResultsFolder, read_rows
from lit_pursamere.store.images import read_images
from lit_pursamere.store.manifest import read_manifest
from lit_pursamere.tasks import LitPurification, LitRobustness
from lit_pursamere.threat import ThreatModel

N, BATCH = 22, 4  # six chunks, the last one short


def trainer(folder, **options):
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=folder, **options,
    )  # fmt: skip


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def attack(folder, shard=WHOLE, limit=None, n=N, eps=0.1):
    attacks = {"pgd": PGD(ThreatModel("linf", eps), "bpda", 2)}
    task = LitRobustness(Identity(), network(), attacks, output=str(folder), pictures=2, save_images=True)
    data = Digits(eval_batch_size=BATCH, test_size=n)
    data.shard = shard
    trainer(folder, limit_test_batches=limit).test(task, data, verbose=False)


def purify(folder, shard=WHOLE, limit=None):
    data = Digits(evaluate="val", val_size=N, eval_batch_size=BATCH)
    data.shard = shard
    trainer(folder, limit_predict_batches=limit).predict(LitPurification(Identity(), str(folder)), data)


def told(folder):
    """Rows without what depends on when and where they were made, and the images behind them."""
    rows = read_rows(folder)
    return [{**row, "seconds": 0, "stored": 0} for row in rows], read_images(folder, rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of one command."""
    folder = tmp_path_factory.mktemp("whole")
    attack(folder)
    return folder


def require_same(folder, whole):
    (rows, images), (expected, there) = told(folder), told(whole)
    assert rows == expected
    assert all(torch.equal(*pair) for pair in zip(images, there, strict=True))
    for name in ("pictures.png", "manifest.json"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert (folder / "report.md").is_file()


def test_shards_in_any_order_make_the_folder_of_one_command(tmp_path, whole, capsys):
    for index in (2, 0):
        attack(tmp_path, Shard(index, 3))
        assert not (tmp_path / "report.md").exists()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        f"shard 2/3 is done; 6 of 22 images judged in {tmp_path}; left: shards 0/3, 1/3; "
        f"next: lit-pursamere report {tmp_path}"
    )
    assert said[1].startswith("shard 0/3 is done; 14 of 22 images judged") and "left: shards 1/3;" in said[1]
    attack(tmp_path, Shard(1, 3))
    assert "| Identity | worst case |" in capsys.readouterr().out, "whoever comes last prints the table"
    require_same(tmp_path, whole)
    files = [tmp_path / f"records-{number}.jsonl" for number in range(3)]
    assert sum(file.read_text().count("\n") for file in files) == 2 * N, "nothing was done twice"


def test_a_shard_goes_on_where_it_stopped_and_only_there(tmp_path, whole):
    attack(tmp_path, Shard(1, 2), limit=1)
    first = (tmp_path / "records-1.jsonl").read_bytes()
    with open(tmp_path / "records-1.jsonl", "ab") as file:
        file.write(b'{"system": "Ide')
    with open(tmp_path / "images-1.float32", "ab") as file:
        file.write(bytes(2 * 64 * 4 + 3))  # an image without a row, and a part of another
    attack(tmp_path, Shard(0, 2))
    assert (tmp_path / "records-1.jsonl").read_bytes() == first + b'{"system": "Ide', "left to its owner"
    attack(tmp_path, Shard(1, 2))
    assert (tmp_path / "records-1.jsonl").read_bytes().startswith(first)
    assert (tmp_path / "images-1.float32").stat().st_size == 2 * 2 * 10 * 64 * 4
    require_same(tmp_path, whole)


def test_another_number_of_shards_completes_the_same_folder(tmp_path, whole):
    attack(tmp_path, Shard(0, 5))
    attack(tmp_path, Shard(3, 5))
    for index in (1, 0):
        attack(tmp_path, Shard(index, 2))
    require_same(tmp_path, whole)


def test_what_shards_of_different_numbers_do_at_the_same_moment_counts_once(tmp_path, whole, capsys):
    attack(tmp_path / "five", Shard(3, 5))
    for index in (0, 1):
        attack(tmp_path / "two", Shard(index, 2))
    for name in ("records-3.jsonl", "images-3.float32"):
        shutil.copy(tmp_path / "five" / name, tmp_path / "two" / name)
    require_same(tmp_path / "two", whole)
    capsys.readouterr()
    attack(tmp_path / "two", Shard(3, 5))
    assert f"% of {N} images" in capsys.readouterr().out, "what is done is told again"
    require_same(tmp_path / "two", whole)


def test_a_folder_of_some_shards_is_completed_by_one_command(tmp_path, whole):
    attack(tmp_path, Shard(2, 3))
    attack(tmp_path)
    require_same(tmp_path, whole)


def test_a_shard_that_runs_already_is_refused_by_name_and_another_is_not(tmp_path):
    attack(tmp_path, Shard(1, 3))
    manifest = read_manifest(tmp_path)
    with Records(tmp_path, manifest, 1, Shard(1, 3)):
        with pytest.raises(OSError, match=r"another run \(process \d+ on .*, shard 1/3\) is writing to"):
            attack(tmp_path, Shard(1, 3))
        attack(tmp_path, Shard(0, 3))
    attack(tmp_path, Shard(2, 3))
    assert (tmp_path / "report.md").exists()


@pytest.mark.parametrize("shard", [Shard(0, 3), Shard(2, 3)], ids=str)
def test_shards_of_another_configuration_are_refused(tmp_path, shard):
    attack(tmp_path, Shard(1, 3))
    with pytest.raises(ValueError, match=r"another configuration \(attacks\.pgd.*0\.2"):
        attack(tmp_path, shard, eps=0.2)


def test_more_shards_than_batches_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match="22 images in batches of 4 make 6, too few for 7 processes; use fewer devices or"
    ):
        attack(tmp_path, Shard(0, 7))


def test_a_purified_set_of_shards_is_that_of_one_command(tmp_path, capsys):
    purify(tmp_path / "one")
    for index in (1, 2):
        purify(tmp_path / "many", Shard(index, 3))
    assert "shard 2/3 is done; 14 of 22 val images purified" in capsys.readouterr().out
    assert main(["purified", "inspect", str(tmp_path / "many")]) == 1
    shown = capsys.readouterr()
    assert "4 of 6 with 4 images each" in shown.out and "lacks 8 of 22 images" in shown.err
    (tmp_path / "many/part-000003.npy.elsewhere-7.part").touch()  # of a shard that was killed on another machine
    purify(tmp_path / "many", Shard(0, 3))
    assert "22 of 22 val images purified" in capsys.readouterr().out
    assert examine(PurifiedSet.open(tmp_path / "many")) == examine(PurifiedSet.open(tmp_path / "one"))
    assert not [*(tmp_path / "many").glob("*.part")]


def test_shards_of_another_purified_set_are_refused(tmp_path):
    purify(tmp_path, Shard(1, 2), limit=1)
    data = Digits(evaluate="val", val_size=N, eval_batch_size=BATCH)
    data.shard = Shard(0, 2)
    with pytest.raises(ValueError, match="dtype: there 'float16', now 'uint8'"):
        trainer(tmp_path).predict(LitPurification(Identity(), str(tmp_path), "uint8"), data)


def test_a_shard_is_given_by_an_option_and_is_no_part_of_the_configuration(
    repository_root, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(repository_root)
    options = [
        "predict", "--config=configs/digits/purify.yaml", "--model.purifier=Identity", "--data.evaluate=val",
        "--data.val_size=9", "--data.eval_batch_size=4", f"--model.output={tmp_path}/set", "--trainer.accelerator=cpu",
        "--trainer.logger=false", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    assert main([*options, "--shard", "2/3"]) == 0
    assert "shard 2/3 is done; 1 of 9 val images purified" in capsys.readouterr().out
    assert "shard" not in yaml.safe_load((tmp_path / "set/config.yaml").read_text())
    assert main([*options, "--shard=3/3"]) == 1
    assert "there is no shard 3/3; they count from 0: those of 3 are 0/3 to 2/3" in capsys.readouterr().err
    assert main([*options, "--shard=3/4"]) == 1
    assert "9 images in batches of 4 make 3, too few for 4 processes" in capsys.readouterr().err
    assert main(["fit", "--config=configs/digits/score.yaml", "--shard=0/3"]) == 1
    assert "no option --shard" in capsys.readouterr().err


def test_whoever_comes_after_a_killed_first_one_prepares_the_folder(tmp_path, monkeypatch):
    """Between the two looks of a shard at the lock, the one that prepared the folder is gone, without a manifest."""
    from lit_pursamere.store.locks import FolderLock

    first = FolderLock(tmp_path, 5, True)
    take, looks = FolderLock._take, []

    def taking(lock, name, shared):
        if shared and name == ".lock" and not looks:
            looks.append(first.release())
        return take(lock, name, shared)

    monkeypatch.setattr(FolderLock, "_take", taking)
    with ResultsFolder(tmp_path, {"a": 1}, 3, Shard(3, 8)) as folder:
        assert read_manifest(tmp_path) == {"a": 1} and looks and not folder.lock.alone
    shutil.rmtree(tmp_path)
