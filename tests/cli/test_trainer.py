"""The trainer of the command line: a whole number of batches is a number of batches."""

from __future__ import annotations

import pytest
import yaml
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from lit_pursamere.cli.main import main

LIMITS = ["limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"]
LIMITS += ["overfit_batches", "val_check_interval"]


def trainer(capsys, *args: str) -> dict:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--model=LitScoreModel", "--data=Digits", *args, "--print_config"])
    assert exit_.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)["trainer"]


@pytest.mark.parametrize("how", ["option", "file"])
@pytest.mark.parametrize("value", ["1", "1.0", "0.5"])
def test_one_is_one_batch_and_a_fraction_a_part(how, value, capsys, tmp_path):
    if how == "file":
        (tmp_path / "limits.yaml").write_text(yaml.safe_dump({"trainer": dict.fromkeys(LIMITS, yaml.safe_load(value))}))
        args = [f"--config={tmp_path}/limits.yaml"]
    else:
        args = [f"--trainer.{name}={value}" for name in LIMITS]
    found = trainer(capsys, *args)
    expected = yaml.safe_load(value)
    assert {name: (found[name], type(found[name])) for name in LIMITS} == dict.fromkeys(
        LIMITS, (expected, type(expected))
    )


def test_an_abbreviated_option_is_none(capsys):
    assert main(["fit", "--model=LitScoreModel", "--data=Digits", "--trainer.max_epoch=3", "--print_config"]) == 1
    assert "the trainer has no 'max_epoch'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("accumulate_grad_batches=0", "trainer.accumulate_grad_batches must be at least 1; got 0"),
        ("check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch must be at least 1; got 0"),
        ("gradient_clip_val=-1", "trainer.gradient_clip_val must be at least 0; got -1"),
        ("min_epochs=-1", "trainer.min_epochs must be at least 0; got -1"),
        ("num_sanity_val_steps=-5", "trainer.num_sanity_val_steps must be at least -1; got -5"),
        ("val_check_interval=0", "trainer.val_check_interval must be above 0; got 0"),
        ("devices=two", "`devices` selected with `CPUAccelerator` should be an int > 0.; got trainer.devices 'two'"),
        (
            "profiler=nope",
            "When passing string value for the `profiler` parameter of `Trainer`, it can only be one of "
            "['simple', 'advanced', 'pytorch', 'xla']; got trainer.profiler 'nope'",
        ),
    ],
)
def test_a_setting_by_which_nothing_can_go_is_refused(option, line, capsys, tmp_path):
    args = ["--model=LitClassifier", "--model.classifier=lit_pursamere.networks.WideResNet", "--data=Digits"]
    assert main(["fit", *args, f"--trainer.default_root_dir={tmp_path}", f"--trainer.{option}"]) == 1
    assert f"error: {line}\n" in capsys.readouterr().err


def test_a_seed_that_is_none_is_named(capsys):
    args = ["--model=LitClassifier", "--model.classifier=lit_pursamere.networks.WideResNet", "--data=Digits"]
    assert main(["fit", *args, "--seed_everything=-1"]) == 1
    assert "error: seed_everything: -1 is not in bounds" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_more_processes_than_batches_are_refused_before_any_is_started(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(_SubprocessScriptLauncher, "launch", lambda *unused, **options: pytest.fail("was launched"))
    monkeypatch.chdir(tmp_path)
    task = {"test": "LitRobustness", "predict": "LitPurification"}[verb]
    args = [f"--model={task}", "--model.purifier=Identity", "--model.output=out", "--data=Digits", "--data.val_size=4"]
    args += ["--data.evaluate=val", "--data.eval_batch_size=2", "--trainer.accelerator=cpu", "--trainer.devices=3"]
    if verb == "test":
        net = "{class_path: lit_pursamere.networks.WideResNet, init_args: {depth: 10, width: 1, channels: 1}}"
        args += [f"--model.classifier={net}", "--model.attacks={}"]
    assert main([verb, *args, "--trainer.strategy=ddp", "--trainer.logger=false"]) == 1
    line = "4 images in batches of 2 make 2, too few for 3 processes; use fewer devices"
    assert f"error: {line}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_more_processes_than_validation_images_are_refused_before_any_is_started(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(_SubprocessScriptLauncher, "launch", lambda *unused, **options: pytest.fail("was launched"))
    args = ["--model=LitClassifier", "--model.classifier=lit_pursamere.networks.WideResNet", "--data=Digits"]
    args += ["--data.val_size=2", "--data.batch_size=9", "--trainer.accelerator=cpu", "--trainer.devices=3"]
    args += ["--trainer.strategy=ddp", f"--trainer.default_root_dir={tmp_path}"]
    assert main([verb, *args]) == 1
    assert "error: val_size=2 makes too few images to validate on for 3 processes" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_last_checkpoint_that_is_not_there_is_not_done_without(verb, capsys, tmp_path):
    args = ["--model=LitClassifier", "--model.classifier=lit_pursamere.networks.WideResNet", "--data=Digits"]
    assert main([verb, *args, "--data.val_size=2", f"--trainer.default_root_dir={tmp_path}", "--ckpt_path=last"]) == 1
    assert "there is no last checkpoint available" in capsys.readouterr().err
