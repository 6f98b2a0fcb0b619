"""The trainer of the command line: a whole number of batches is a number of batches."""

from __future__ import annotations

import pytest
import yaml

from lit_pursamere.cli.main import main

LIMITS = ["limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"]
LIMITS += ["overfit_batches", "val_check_interval"]


def trainer(capsys, *args: str) -> dict:
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "--model=LitScoreModel", "--data=Digits", *args, "--print_config"])
    assert exit_.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)["trainer"]


@pytest.mark.parametrize("how", ["option", "file"])
@pytest.mark.parametrize("value", ["1", "1.0", "0.5", "3"])
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
    assert "--trainer.max_epoch=3" in capsys.readouterr().err
