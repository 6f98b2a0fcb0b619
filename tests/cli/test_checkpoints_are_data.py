"""No option, configuration or environment makes a checkpoint a program."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Trainer

from lit_pursamere.cli.continuing import CheckpointsAreData, read_checkpoint
from lit_pursamere.cli.lightning import command_line
from lit_pursamere.cli.main import main
from lit_pursamere.tasks.training import WholeCheckpoints


@pytest.fixture
def evil(call, tmp_path):
    """A checkpoint that makes the file PWNED, were it run."""
    path = tmp_path / "evil.ckpt"
    content = {"state_dict": {"a": torch.ones(1)}, "hyper_parameters": call(open, str(tmp_path / "PWNED"), "w")}
    torch.save(content, path)
    yield path
    assert not (tmp_path / "PWNED").exists()


@pytest.fixture
def run(tmp_path, repository_root, monkeypatch, capsys):
    """The one error of a verb."""
    monkeypatch.chdir(repository_root)

    def error(verb, *options):
        arguments = [verb, "--config=configs/digits/classifier.yaml", "--data.purified=null", *options]
        assert main([*arguments, "--trainer.logger=false", f"--trainer.default_root_dir={tmp_path}"]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
        assert len(lines) == 1 and "=False" not in lines[0]
        return lines[0]

    return error


@pytest.mark.parametrize(
    ("verb", "environment"), [("fit", "0"), ("fit", "1"), ("validate", "1"), ("test", "1"), ("predict", "1")]
)
def test_a_checkpoint_that_names_a_function(verb, environment, evil, run, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", environment)
    message = run(verb, f"--ckpt_path={evil}")
    assert f"{evil} is not read" in message and "io.open" in message and "nothing in it was run" in message


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_the_option_is_refused(verb, evil, run):
    assert "weights_only: false is refused" in run(verb, f"--ckpt_path={evil}", "--weights_only=false")


def test_a_configuration_is_refused(evil, run, tmp_path):
    (tmp_path / "c.yaml").write_text(f"ckpt_path: {evil}\nweights_only: false\n")
    assert "weights_only: false is refused" in run("fit", f"--config={tmp_path / 'c.yaml'}")


@pytest.mark.parametrize("weights_only", [None, True, False])
def test_a_trainer_reads_by_the_same_door(evil, weights_only, monkeypatch):
    """Also where it finds the file by itself."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", plugins=[CheckpointsAreData()])
    with pytest.raises(ValueError, match="nothing in it was run"):
        trainer.strategy.load_checkpoint(evil, weights_only=weights_only)


@pytest.mark.parametrize("name", ["builtins.bytearray", "pathlib.PosixPath", "somewhere.Class"])
def test_objects_are_no_data(tmp_path, name):
    module, _, kind = name.rpartition(".")
    (tmp_path / "w").write_bytes(b"\x80\x02}X\x0a\x00\x00\x00state_dict" + f"c{module}\n{kind}\n".encode() + b")Rs.")
    with pytest.raises(ValueError, match=f"names {name}"):
        read_checkpoint(tmp_path / "w")


def test_the_trainer_of_the_command_line_has_it(repository_root, tmp_path, monkeypatch):
    monkeypatch.chdir(repository_root)
    options = ["--data.purified=null", "--trainer.logger=false", f"--trainer.default_root_dir={tmp_path}"]
    cli = command_line(["--config=configs/digits/classifier.yaml", *options], run=False)
    assert type(cli.trainer.strategy.checkpoint_io) is CheckpointsAreData


def test_they_are_written_whole():
    """The door by which they are read keeps the way in which a training writes them."""
    assert issubclass(CheckpointsAreData, WholeCheckpoints)


def test_flipped_bytes(tmp_path):
    numbers = torch.full((50,), 1.5)
    torch.save({"state_dict": {"a": numbers}, "pytorch-lightning_version": "2.6.6"}, tmp_path / "w")
    whole = bytearray((tmp_path / "w").read_bytes())
    assert torch.equal(read_checkpoint(tmp_path / "w")["state_dict"]["a"], numbers)
    whole[whole.index(numbers.numpy().tobytes()) + 9] ^= 1
    (tmp_path / "w").write_bytes(whole)
    with pytest.raises(ValueError, match="not a whole Lightning checkpoint: Bad CRC-32"):
        read_checkpoint(tmp_path / "w")


def test_a_version_that_is_none_is_told(tmp_path):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "x"}, tmp_path / "w")
    with pytest.raises(ValueError, match=r"w .* is not a whole Lightning checkpoint: Invalid version: 'x'"):
        read_checkpoint(tmp_path / "w")


def test_a_file_that_does_not_say_its_version_is_none(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "w")
    with pytest.raises(ValueError, match=r"w .* is not a whole Lightning checkpoint: .* which version of Lightning"):
        read_checkpoint(tmp_path / "w")


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("loops", 5, "loops in it is a int"), ("callbacks", [], "callbacks in it is a list"),
        ("optimizer_states", {}, "optimizer_states in it is a dict"),
        ("lr_schedulers", [5], "lr_schedulers in it are no states"),
        ("epoch", "x", "epoch in it is a str"),
        ("configuration", 5, "configuration in it is a int"), ("card", "x", "card in it is a str"),
        ("state_dict", None, "state_dict in it is a NoneType"), ("state_dict", {"a": 5}, "a in it is no tensor"),
    ],
)  # fmt: skip
def test_what_is_of_another_kind_than_its_name_says(name, value, line, tmp_path):
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6", name: value}, tmp_path / "w")
    with pytest.raises(ValueError, match=rf"w \(.*\) is not a whole Lightning checkpoint: {line}"):
        read_checkpoint(tmp_path / "w")
