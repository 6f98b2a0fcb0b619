"""`eval_batch_size auto`: what fits, recorded with the run, the same for whoever continues or shares the folder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from lit_pursamere.attacks import APGD, PGD, AutoAttack, Restarts, Square, WorstCase
from lit_pursamere.cli.fitting import CLAIM, FittingBatch, claimed, for_everybody
from lit_pursamere.cli.main import main
from lit_pursamere.data import Digits, PurifiedSet
from lit_pursamere.defense import Defense
from lit_pursamere.estimate.memory import need_of
from lit_pursamere.preflight import memory
from lit_pursamere.purifiers import Identity
from lit_pursamere.sharding import WHOLE, Shard
from lit_pursamere.store import read_rows
from lit_pursamere.store.manifest import read_manifest
from lit_pursamere.tasks import LitPurification, LitRobustness
from lit_pursamere.threat import ThreatModel

N, THREAT = 40, ThreatModel("linf", 0.1)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


ATTACKS = {"pgd": PGD(THREAT, "bpda", 2)}


def run(verb, folder, size="auto", shard=WHOLE, limit=None):
    """A `test` or a `predict` as the command line starts it."""
    data = Digits(test_size=N, val_size=N, evaluate="test" if verb == "test" else "val", eval_batch_size=size)
    data.shard = shard
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False,
        default_root_dir=folder, callbacks=[FittingBatch(verb)] if data.automatic else [],
        **({} if limit is None else {f"limit_{verb}_batches": limit}),
    )  # fmt: skip
    if verb == "test":
        trainer.test(LitRobustness(Identity(), network(), ATTACKS, output=str(folder), pictures=0), data, verbose=False)
    else:
        trainer.predict(LitPurification(Identity(), str(folder)), data)
    return data.eval_batch_size


@pytest.fixture
def free(monkeypatch):
    """Sets for how many images of a run there is room."""

    def room_for(images: int, verb: str = "test") -> None:
        attacked, attacks = (network(), ATTACKS) if verb == "test" else (nn.Identity(), {})
        defense = Defense(Identity(), attacked)
        need = need_of(lambda count: memory.attack_once(defense, attacks, torch.rand(4, 1, 8, 8), count))
        monkeypatch.setattr(memory, "free_bytes", lambda device: int(need.of(images)))

    return room_for


def rows(folder):
    return [row | {"seconds": 0, "run": 0} for row in read_rows(folder)]


def test_what_fits_is_recorded_and_changes_no_verdict(tmp_path, free):
    free(7)
    assert run("test", tmp_path / "auto") == 5, "of 40 halved: 20, 10, 5"
    assert read_manifest(tmp_path / "auto")["slots"] == 5
    run("test", tmp_path / "told", 40)
    near = [(row["votes_last"], row["prediction_any"]) for row in rows(tmp_path / "auto")]
    assert near == [(row["votes_last"], row["prediction_any"]) for row in rows(tmp_path / "told")]


def test_a_run_that_continues_takes_the_recorded_size(tmp_path, free):
    free(7)
    run("test", tmp_path / "cut", limit=3)
    free(1000)
    assert run("test", tmp_path / "cut") == 5
    free(7)
    run("test", tmp_path / "whole")
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole") and len(rows(tmp_path / "cut")) == 2 * N


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_shards_take_what_the_first_of_them_found(tmp_path, free, verb):
    free(7, verb)
    size = run(verb, tmp_path, shard=Shard(1, 2))
    free(1000)
    assert size < 20 and run(verb, tmp_path, shard=Shard(0, 2)) == size
    if verb == "test":
        assert len(rows(tmp_path)) == 2 * N and read_manifest(tmp_path)["slots"] == size
    else:
        made = PurifiedSet.open(tmp_path)
        assert made.size == size and made.count() == N


def test_of_shards_that_start_together_one_decides(tmp_path):
    assert [claimed(tmp_path / "new", size) for size in (64, 128, 32)] == [64, 64, 64]
    assert [file.name for file in (tmp_path / "new").iterdir()] == [CLAIM]


def test_every_process_of_every_shard_gets_a_batch():
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert for_everybody(128, 1000, trainer, WHOLE) == 128
    assert for_everybody(128, 100, trainer, Shard(1, 8)) == 12
    assert for_everybody(128, 3, trainer, Shard(1, 8)) == 1


def test_where_not_even_one_image_fits_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10)
    line = r"not even a batch of 1 image fits: it needs about .*B, and 10 B are free; lower what an image needs"
    with pytest.raises(ValueError, match=line):
        run("test", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_processes_share_what_a_cpu_has_free(free):
    free(700)
    defense, x = Defense(Identity(), network()), torch.rand(4, 1, 8, 8)
    alone, shared = (memory.fitting_batch_size(defense, ATTACKS, x, 512, sharers) for sharers in (1, 2))
    assert alone == 512 and 64 <= shared <= 256


@pytest.mark.parametrize(
    ("attack", "copies"),
    [
        (PGD(THREAT, steps=2, eot=5), 5),
        (APGD(THREAT, eot=5), 5),
        (Square(THREAT, eot=5, eot_chunk=2), 2),
        (AutoAttack(THREAT, version="rand"), 20),
        (AutoAttack(THREAT, version="rand", eot_chunk=3), 3),
        (WorstCase([PGD(THREAT, steps=2), Restarts(PGD(THREAT, steps=2, eot=4, start="ball"), 2)]), 4),
    ],
)
def test_draws_of_a_step_count_as_images(attack, copies):
    assert memory.draws_at_once(attack) == copies
    if hasattr(attack, "eot"):
        assert memory.draws_at_once(replace(attack, eot=1)) == 1


def test_the_command_line_finds_it(tmp_path, capsys, repository_root, monkeypatch):
    monkeypatch.chdir(repository_root)
    command = ["test", "--config=configs/digits/robustness.yaml", "--model.purifier=Identity", "--model.attacks={}"]
    command += [f"--model.output={tmp_path}/out", "--data.test_size=20", "--model.pictures=0"]
    command += [f"--trainer.default_root_dir={tmp_path}", "--trainer.logger=false", "--model.preflight=false"]
    assert main([*command, "--data.eval_batch_size=auto", "--shard=0/4"]) == 0
    assert read_manifest(tmp_path / "out")["slots"] == 5, "20 images for 4 shards"
    capsys.readouterr()
    assert main([*command, "--data.eval_batch_size=all"]) == 1
    assert "Digits needs an eval_batch_size of at least 1, or auto; got 'all'" in capsys.readouterr().err
