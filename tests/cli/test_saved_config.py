"""A run's folder holds the configuration that repeats it, and keeps it when another run is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lit_pursamere.cli.main import main
from lit_pursamere.data import PurifiedSet
from lit_pursamere.store import read_rows


@pytest.fixture(autouse=True)
def repository(repository_root, monkeypatch):
    monkeypatch.chdir(repository_root)


def small(folder, *more):
    return [
        "test", "--config=configs/digits/robustness.yaml", "--data.test_size=3", "--data.eval_batch_size=2",
        "--model.purifier.sigmas.stride=116",
        "--model.attacks.gPGD20.steps=2", "--model.attacks.BPDA20-det.steps=2", "--model.pictures=0",
        "--model.threat.eps=8/255", f"--model.output={folder}/run", "--trainer.logger=false",
        "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}", *more,
    ]  # fmt: skip


def test_the_configuration_in_the_folder_repeats_the_run(tmp_path):
    assert main(small(tmp_path)) == 0
    assert main(["test", f"--config={tmp_path}/run/config.yaml", f"--model.output={tmp_path}/again"]) == 0
    rows, again = ([row | {"seconds": 0} for row in read_rows(tmp_path / name)] for name in ("run", "again"))
    assert len(rows) == 18 and rows == again
    saved = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert saved["model"]["init_args"]["threat"]["eps"] == "8/255"


@pytest.mark.parametrize("logger", ["false", "null"])
def test_nothing_is_written_where_the_command_is_given(logger, tmp_path, monkeypatch):
    for part in ("configs", "checkpoints"):
        (tmp_path / part).symlink_to(Path(part).resolve())
    monkeypatch.chdir(tmp_path)
    words = [word for word in small(tmp_path / "out") if "default_root_dir" not in word]
    assert main([*words, f"--trainer.logger={logger}"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"configs", "checkpoints", "out"}
    assert (tmp_path / "out/run/config.yaml").is_file()


@pytest.mark.parametrize("logs_in_the_folder", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_refused_run_leaves_the_configuration_alone(tmp_path, logs_in_the_folder, capsys):
    more = [f"--trainer.default_root_dir={tmp_path}/run"] if logs_in_the_folder else []
    assert main(small(tmp_path, *more)) == 0
    before = (tmp_path / "run/config.yaml").read_bytes()
    assert main(small(tmp_path, *more, "--model.purifier.lr_max=0.2")) == 1
    assert (
        "results of another configuration (defenses.PurSAMERE.purifier.lr_max: there 0.1, now 0.2"
        in capsys.readouterr().err
    )
    assert (tmp_path / "run/config.yaml").read_bytes() == before


def test_a_purified_set_has_it_too_and_does_not_mind(tmp_path):
    args = [
        "predict", "--config=configs/digits/purify.yaml", "--model.purifier.sigmas.stride=116",
        f"--model.output={tmp_path}/set", f"--trainer.default_root_dir={tmp_path}/set", "--data.evaluate=val",
        "--data.val_size=3", "--trainer.enable_progress_bar=false",
    ]  # fmt: skip
    for _ in range(2):
        assert main(args) == 0
        assert PurifiedSet.open(tmp_path / "set").count() == 3
    assert yaml.safe_load((tmp_path / "set/config.yaml").read_text())["model"]["class_path"].endswith("LitPurification")
