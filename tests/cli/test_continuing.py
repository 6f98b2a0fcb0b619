"""A `fit` goes on by itself, says when it is complete, and refuses what something else made; nothing is replaced."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load

from lit_pursamere.cli.main import main
from lit_pursamere.data import Digits, PurifiedSet
from lit_pursamere.data.purified_checks import probe
from lit_pursamere.store import ResultsFolder
from lit_pursamere.weights import inspect_weights

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings(
    "ignore:Checkpoint directory", "ignore:The dirpath has changed", "ignore:Total length of"
)


def arguments(folder):
    """Arguments of a training of one epoch of two steps below a folder."""
    return [
        "fit", f"--config={ROOT}/configs/digits/classifier.yaml", "--data.purified=null", "--data.val_size=0",
        "--data.train_size=128", "--model.classifier.width=1", "--trainer.max_epochs=1",
        f"--model.export={folder}/net.safetensors", f"--trainer.logger.save_dir={folder}",
        "--trainer.enable_progress_bar=false",
    ]  # fmt: skip


@pytest.fixture
def fit(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return arguments(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a complete training."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(arguments(folder)) == 0
    return folder


@pytest.fixture
def done(finished, fit, tmp_path):
    """Arguments of a training that is complete."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return fit


def contents(folder):
    """Every file of a folder with its bytes, but for locks."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.name.startswith(".lock"))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def error_of(capsys, *args):
    capsys.readouterr()
    assert main(list(args)) == 1
    line, _ = capsys.readouterr().err.splitlines()
    return line


def same(first, second):
    """Two files of weights hold the same numbers."""
    first, second = load(first), load(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def last(folder):
    return folder / "classifier/logs/checkpoints/last.ckpt"


def test_a_training_that_is_complete_says_so(done, tmp_path, capsys):
    export = tmp_path / "net.safetensors"
    with safe_open(export, "pt") as file:
        configuration = json.loads(file.metadata()["configuration"])
    assert configuration["model"]["lr"] == 0.1 and configuration["trainer"]["max_epochs"] == 1
    assert configuration["images"]["count"] == 128 and configuration["start"] is None
    before = contents(tmp_path)
    for options in ([], ["--data.num_workers=1", "--data.resident=false"]):
        capsys.readouterr()
        assert main([*done, *options]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        after = f"next: lit-pursamere test --config FILE --model.classifier.checkpoint {export}"
        assert line.startswith(f"{export} is complete; ") and line.endswith(after)
        assert contents(tmp_path) == before


def test_without_the_exported_file_it_comes_from_the_last_checkpoint(done, tmp_path):
    export = tmp_path / "net.safetensors"
    whole = export.read_bytes()
    export.unlink()
    assert main(done) == 0
    assert export.read_bytes() == whole, "the card, too"


REFUSED = {
    "--model.weight_decay=0": r"model\.weight_decay: there 0\.0005, now 0",
    "--model.lr=0.2": r"model\.lr: there 0\.1, now 0\.2",
    "--model.schedule=cosine": r"model\.schedule: there 'milestones', now 'cosine'",
    "--trainer.max_epochs=2": r"trainer\.max_epochs: there 1, now 2",
    "--seed_everything=1": "seed_everything: there 0, now 1",
    "--data.seed=1": r"data\.seed: there 0, now 1; images\.digest: there",
}


@pytest.mark.parametrize("option", REFUSED)
def test_other_settings_are_refused_and_nothing_changes(option, done, tmp_path, capsys):
    before = contents(tmp_path)
    error = error_of(capsys, *done, option)
    assert re.search(rf"net\.safetensors was made with another configuration .*{REFUSED[option]}", error)
    assert "`--ckpt_path CHECKPOINT` then starts from weights that are there" in error
    assert contents(tmp_path) == before


def test_they_are_refused_before_there_is_an_exported_file(done, tmp_path, capsys):
    (tmp_path / "net.safetensors").unlink()
    before = contents(tmp_path)
    error = error_of(capsys, *done, "--model.lr=0.2")
    assert "last.ckpt was made with another configuration (model.lr: there 0.1, now 0.2)" in error
    assert contents(tmp_path) == before


@pytest.mark.parametrize("other", [pytest.param("images", marks=pytest.mark.slow), "labels"])
def test_other_pixels_or_labels_are_refused(other, fit, tmp_path, capsys):
    draws = np.random.default_rng(0)
    images, labels = draws.integers(0, 256, (64, 8, 8), dtype=np.uint8), np.arange(64) % 10

    def written(images, labels):
        np.savez(tmp_path / "a.npz", **{f"{split}_images": images for split in ("train", "test")},
                 **{f"{split}_labels": labels for split in ("train", "test")})  # fmt: skip

    npz = [*fit, "--data=NPZ", f"--data.path={tmp_path}/a.npz", "--data.batch_size=32"]
    written(images, labels)
    assert main(npz) == 0
    before = contents(tmp_path)
    written(255 - images if other == "images" else images, labels if other == "images" else labels[::-1])
    assert re.search(r"images\.digest: there '\w+', now '\w+'\)", error_of(capsys, *npz))
    assert contents(tmp_path) | {"a.npz": b""} == before | {"a.npz": b""}


def test_a_new_start_from_weights_that_are_there_has_names_of_its_own(done, tmp_path, capsys):
    """Its rates are those of its own settings from the first step on, and its card tells where it comes from."""
    before = contents(tmp_path)
    new = [*done, "--model.lr=0.05", "--model.schedule=cosine", "--trainer.max_epochs=2",
           "--trainer.log_every_n_steps=1", f"--ckpt_path={last(tmp_path)}"]  # fmt: skip
    assert "model.lr: there 0.1, now 0.05" in error_of(capsys, *new)
    new += [f"--model.export={tmp_path}/new.safetensors"]
    assert "last.ckpt was made with another configuration" in error_of(capsys, *new)
    assert contents(tmp_path) == before
    new += [f"--trainer.logger.save_dir={tmp_path}/new"]
    assert main(new) == 0
    state = torch.load(last(tmp_path / "new"), weights_only=True)
    assert state["global_step"] == 4 and state["lr_schedulers"][0]["base_lrs"] == [0.05]
    found = inspect_weights(tmp_path / "new.safetensors").metadata
    (begun,) = json.loads(found["begun"])
    assert begun["steps"] == "2" and begun["lr"] == "0.1" and json.loads(begun["configuration"])["start"] is None
    assert json.loads(found["configuration"])["start"].startswith("sha256 ")
    assert {name: text for name, text in contents(tmp_path).items() if not name.startswith("new")} == before
    whole = (tmp_path / "new.safetensors").read_bytes()
    assert main(new) == 0
    assert "is complete" in capsys.readouterr().out
    (tmp_path / "new.safetensors").unlink()
    assert main(new) == 0
    assert (tmp_path / "new.safetensors").read_bytes() == whole, "it goes on from its own last checkpoint"


def test_a_named_checkpoint_of_the_same_training_continues_it(done, tmp_path):
    whole = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").unlink()
    shutil.move(last(tmp_path), tmp_path / "kept.ckpt")
    assert main([*done, f"--ckpt_path={tmp_path}/kept.ckpt"]) == 0
    assert same(whole, (tmp_path / "net.safetensors").read_bytes())


def test_without_an_export_it_continues_as_well(fit, tmp_path, capsys):
    alone = [*fit, "--model.export=null"]
    for _ in range(2):
        assert main(alone) == 0
        line = capsys.readouterr().out.splitlines()[-1]
        assert line.startswith("the training is complete, after 2 steps, checkpoint ") and "last.ckpt; " in line
        assert "next: `--model.export FILE`" in line
    assert "last.ckpt was made with another configuration" in error_of(capsys, *alone, "--model.lr=0.2")


def test_a_checkpoint_that_slurm_asked_for_is_taken_from_the_same_training_only(
    done, tmp_path, monkeypatch, capsys, caplog
):  # fmt: skip
    for name, value in {"JOB_NAME": "train", "NTASKS": "1", "JOB_ID": "78", "PROCID": "0", "LOCALID": "0",
                        "NODEID": "0", "NTASKS_PER_NODE": "1", "NODELIST": "localhost"}.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    shutil.copy(last(tmp_path), "hpc_ckpt_1.ckpt")  # left in the current folder by another job
    new = [*done, f"--model.export={tmp_path}/new.safetensors", f"--trainer.logger.save_dir={tmp_path}/new"]
    assert main([*new, "--model.lr=0.2"]) == 0
    assert "begun" not in inspect_weights(tmp_path / "new.safetensors").metadata
    (tmp_path / "net").mkdir()
    shutil.move("hpc_ckpt_1.ckpt", tmp_path / "net/hpc_ckpt_1.ckpt")
    (tmp_path / "net.safetensors").unlink()
    last(tmp_path).unlink()
    error = error_of(capsys, *done, "--model.lr=0.2")
    assert "net/hpc_ckpt_1.ckpt was made with another configuration (model.lr: there 0.1, now 0.2)" in error
    with caplog.at_level("INFO"):
        assert main(done) == 0
    assert "net/hpc_ckpt_1.ckpt" in caplog.text


@pytest.mark.parametrize("options", [["--trainer.fast_dev_run=true"], ["--trainer.max_epochs=0"]])
def test_a_trial_run_exports_nothing(options, fit, tmp_path, capsys):
    assert main([*fit, *options]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("No weights are exported")
    assert not (tmp_path / "net.safetensors").exists()


def test_a_trial_run_replaces_nothing(done, tmp_path):
    before = contents(tmp_path)
    assert main([*done, "--trainer.fast_dev_run=true"]) == 0
    assert contents(tmp_path) == before


def test_a_training_that_diverged_fails_and_keeps_nothing(fit, tmp_path, capsys):
    error = error_of(capsys, *fit, "--model.lr=1e30", "--trainer.max_epochs=3")
    assert "the training diverged: by step" in error and "lower `model.lr`" in error.lower()
    assert not (tmp_path / "net.safetensors").exists() and not [*tmp_path.rglob("*.part")]
    if last(tmp_path).exists():  # of an epoch before
        state = torch.load(last(tmp_path), weights_only=True)["state_dict"]
        assert all(torch.isfinite(value).all() for value in state.values())


def test_validate_looks_for_nothing_and_keeps_nothing(fit, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(b"of another")
    before = contents(tmp_path)
    options = ["--data.val_size=50", "--trainer.limit_val_batches=1", "--trainer.logger=false"]
    assert main(["validate", *fit[1:], *options]) == 0
    assert contents(tmp_path) == before


def test_nothing_is_written_where_nobody_asked(fit, tmp_path):
    """Neither logger nor folder are named, and the user's own config.yaml lies in the current folder."""
    Path("config.yaml").write_text("# mine")
    options = ["--trainer.logger=null", "--trainer.callbacks=null"]
    assert main([*fit[:-2], *options]) == 0
    assert contents(tmp_path / "here") == {"config.yaml": b"# mine"}
    assert {"config.yaml", "checkpoints"} <= {file.name for file in (tmp_path / "net/logs").iterdir()}
    assert [file.name for file in (tmp_path / "net/logs/checkpoints").glob("*.ckpt")] == ["last.ckpt"]
    (tmp_path / "net.safetensors").unlink()
    shutil.rmtree(tmp_path / "net")
    assert main([*fit[:-2], "--trainer.logger=false", "--trainer.callbacks=null"]) == 0
    assert contents(tmp_path / "here") == {"config.yaml": b"# mine"}
    assert {"config.yaml", "checkpoints"} <= {file.name for file in (tmp_path / "net").iterdir()}


def test_a_second_training_in_the_same_folder_is_refused(fit, tmp_path, capsys):
    with ResultsFolder(last(tmp_path).parent):
        assert "another run" in error_of(capsys, *fit)
    assert not last(tmp_path).exists()


def test_what_killed_trainings_left_half_written_is_removed(done, tmp_path):
    (tmp_path / "net.safetensors").unlink()
    for file in (last(tmp_path), tmp_path / "net.safetensors"):
        file.with_name(f"{file.name}.host-123.part").write_bytes(b"half")
    assert main(done) == 0
    assert not [*tmp_path.rglob("*.part")] and (tmp_path / "net.safetensors").exists()


def test_a_checkpoint_that_is_not_whole_is_one_line(fit, tmp_path, capsys):
    last(tmp_path).parent.mkdir(parents=True)
    last(tmp_path).write_bytes(b"cut")
    assert "last.ckpt (3 bytes) is not a whole Lightning checkpoint" in error_of(capsys, *fit)


@pytest.mark.parametrize("content", [b"of another", b""])
def test_an_export_that_is_no_weight_file_is_one_line(content, fit, tmp_path, capsys):
    (tmp_path / "net.safetensors").write_bytes(content)
    assert "net.safetensors is no whole file of weights" in error_of(capsys, *fit)


def test_a_training_on_other_purified_images_is_not_complete(done, tmp_path, capsys):
    """The set was made again with another purifier after the training."""
    data = Digits(val_size=0, train_size=128)
    data.setup("fit")
    source, indices = data.sources["train"], data.indices("train")
    told = {"data": "digits", "split": "train", "source": {"count": len(source), "means": probe(source, indices)},
            "purifier": {"class": "Another"}, "weights": "abc"}  # fmt: skip
    made = PurifiedSet.create(tmp_path / "purified", indices, (1, 8, 8), told, "float32")
    made.write(0, source.images[torch.tensor(indices)] / 2)
    error = error_of(capsys, *done, f"--data.purified={tmp_path}/purified")
    assert "purified: there None, now {" in error and "model.export" in error


def test_weights_that_do_not_say_where_they_come_from_are_not_taken_for_complete(fit, tmp_path, capsys):
    (tmp_path / "net.safetensors").write_bytes((ROOT / "checkpoints/digits/classifier.safetensors").read_bytes())
    assert "does not say what configuration made it" in error_of(capsys, *fit)


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_several_processes_continue_together(fit, tmp_path):
    """Its end is said once; without the exported file they go on from the checkpoint of the last step."""

    def start(*options):
        command = [sys.executable, "-m", "lit_pursamere", *fit, "--trainer.max_epochs=2", *options]
        two = ("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.accelerator=cpu")
        return subprocess.run([*command, *two], check=True, capture_output=True, text=True)

    start()
    whole = (tmp_path / "net.safetensors").read_bytes()
    assert start().stdout.count("is complete") == 1
    (tmp_path / "net.safetensors").unlink()
    said = start()
    assert "last.ckpt" in said.stdout + said.stderr
    assert same(whole, (tmp_path / "net.safetensors").read_bytes())


def test_a_checkpoint_of_a_job_that_left_none_is_told(fit, tmp_path, capsys):
    assert "--ckpt_path hpc: no job left a hpc_ckpt_*.ckpt in" in error_of(capsys, *fit, "--ckpt_path=hpc")
    assert not (tmp_path / "net.safetensors").exists()


@pytest.mark.parametrize("name", ["loops", "optimizer_states", "lr_schedulers"])
def test_a_training_does_not_continue_from_weights_alone(name, done, tmp_path, capsys):
    content = torch.load(last(tmp_path), weights_only=True)
    del content[name]
    torch.save(content, tmp_path / "weights.ckpt")
    error = error_of(capsys, *done, f"--ckpt_path={tmp_path}/weights.ckpt", f"--model.export={tmp_path}/n.safetensors")
    assert f"weights.ckpt holds no {name}: a training cannot continue from weights alone" in error
