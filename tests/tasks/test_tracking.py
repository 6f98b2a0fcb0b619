"""Trackers are told settings, figures, images and tables, each through its own interface; none can stop a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_pursamere.cli.main import main
from lit_pursamere.tasks.tracking import (
    log_figure,
    log_image,
    log_outcome,
    log_settings,
    log_table,
    plain_settings,
)

SETTINGS = {"seed_everything": 0, "model": {"class": "Net", "lr": 0.1, "steps": [1, 2]}}
ROWS = [("PurSAMERE", 0.5), ("undefended", 0.0)]


class Told(Logger):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, object] = {}

    name, version = "fake", "1"

    def log_metrics(self, metrics, step=None):
        self.told |= metrics

    def log_hyperparams(self, params):
        self.told["params"] = params


class FakeWandb(Told):
    """The interface of Lightning's WandbLogger."""

    def log_image(self, key, images, step=None):
        self.told[key] = [getattr(image, "size", None) for image in images], step

    def log_table(self, key, columns=None, data=None, dataframe=None, step=None):
        self.told[key] = columns, data


class FakeMlflow(Told):
    """The interface of Lightning's MLFlowLogger, whose `experiment` is MLflow's client."""

    run_id = "run7"

    @property
    def experiment(self):
        def keep(kind):
            return lambda run_id, content, artifact_file: self.told.update({artifact_file: (run_id, kind, content)})

        return SimpleNamespace(log_figure=keep("figure"), log_table=keep("table"), log_image=keep("image"))


class Broken(FakeWandb):
    def log_image(self, *args, **kwargs):
        raise ConnectionError("no network")

    log_hyperparams = log_table = log_image


def trainer(*loggers, first=True):
    return SimpleNamespace(loggers=loggers, is_global_zero=first, global_step=5)


def tell(*loggers, first=True):
    told = trainer(*loggers, first=first)
    log_settings(told, SETTINGS)
    log_figure(told, "robustness", Figure((1, 1)))
    log_image(told, "samples", torch.ones(1, 4, 4))
    log_table(told, "accuracies", ("system", "value"), ROWS)
    log_outcome(told, SETTINGS, {"robustness/worst_case": 0.5})


def events(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0})
    found.Reload()
    return found


def test_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, "", "logs")
    tell(logger)
    logger.save()
    logger.finalize("success")
    found = events(tmp_path / "logs")
    assert yaml.safe_load((tmp_path / "logs/hparams.yaml").read_text()) == SETTINGS
    tags = found.Tags()
    assert tags["images"] == ["robustness", "samples"] and tags["scalars"] == ["robustness/worst_case"]
    assert {"settings/text_summary", "accuracies/text_summary"} <= set(tags["tensors"])
    text = found.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| model/lr " in text and "| 0.1 " in text
    metadata = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"model/lr" in metadata


def test_csv(tmp_path):
    logger = CSVLogger(tmp_path, "", "logs")
    tell(logger)
    logger.save()
    assert yaml.safe_load((tmp_path / "logs/hparams.yaml").read_text()) == SETTINGS


def test_wandb_and_mlflow_by_their_own_interfaces():
    wandb, mlflow = FakeWandb(), FakeMlflow()
    tell(wandb, mlflow)
    assert wandb.told["params"] == mlflow.told["params"] == SETTINGS
    assert wandb.told["robustness"] == ([(100, 100)], 5)
    assert wandb.told["accuracies"] == (["system", "value"], [["PurSAMERE", 0.5], ["undefended", 0.0]])
    assert "samples" in wandb.told
    assert mlflow.told["robustness.png"][:2] == ("run7", "figure")
    assert mlflow.told["samples/00000005.png"][2].shape == (4, 4, 1)
    table = {"system": ["PurSAMERE", "undefended"], "value": [0.5, 0.0]}
    assert mlflow.told["accuracies.json"] == ("run7", "table", table)


def test_a_tracker_that_fails_is_one_line_and_the_others_are_told(capsys):
    wandb = FakeWandb()
    tell(Broken(), wandb)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4 and all("in Broken (ConnectionError: no network)" in line for line in told), told
    assert {"params", "robustness", "samples", "accuracies"} <= set(wandb.told)


def test_only_the_first_process_speaks():
    wandb = FakeWandb()
    tell(wandb, first=False)
    assert wandb.told == {}


def test_settings_are_named_as_on_the_command_line():
    config = {
        "seed_everything": 1,
        "model": {"class_path": "a.Net", "init_args": {"lr": 0.1, "export": None, "data": {"class_path": "b.D"}}},
    }
    expected = {"seed_everything": 1, "model": {"class": "a.Net", "lr": 0.1, "data": {"class": "b.D"}}}
    assert plain_settings(config) == expected


SMALL = "{class_path: lit_pursamere.networks.WideResNet, init_args: {depth: 10, width: 1, channels: 1}}"
TEST = """
seed_everything: 0
model:
  class_path: LitRobustness
  init_args:
    purifier: {class_path: Identity}
    classifier: NETWORK
    attacks: {PGD: {class_path: PGD, init_args: {view: exact, threat: {norm: linf, eps: 8/255}, steps: 2}}}
    pictures: 2
data: {class_path: Digits, init_args: {eval_batch_size: 4, test_size: 4}}
trainer: {accelerator: cpu, enable_progress_bar: false, enable_model_summary: false}
""".replace("NETWORK", SMALL)


def test_logs_of_a_test_lie_in_its_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test.yaml").write_text(TEST)
    assert main(["test", "--config=test.yaml", "--model.output=run"]) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run", "test.yaml"]
    settings = yaml.safe_load((tmp_path / "run/logs/hparams.yaml").read_text())
    assert settings["model"]["attacks"]["PGD"]["steps"] == 2 and settings["seed_everything"] == 0
    tags = events(tmp_path / "run/logs").Tags()
    assert {"robustness/clean", "robustness/PGD", "robustness/worst_case"} <= set(tags["scalars"])
    assert not [name for name in tags["scalars"] if name.partition("/")[0] not in ("robustness", "epoch")]
    assert set(tags["images"]) == {"pictures", "robustness"}
    assert {"settings/text_summary", "robustness/text_summary"} <= set(tags["tensors"])


@pytest.mark.parametrize("logger", ["TensorBoardLogger", "CSVLogger"])
def test_a_fit_tells_its_settings(logger, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([
        "fit", "--model=LitClassifier", f"--model.classifier={SMALL}", "--model.export=net/net.safetensors",
        "--data=Digits", "--data.val_size=20", "--data.train_size=64", "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1", f"--trainer.logger=pytorch_lightning.loggers.{logger}",
        "--trainer.logger.save_dir=net", "--trainer.logger.name=", "--trainer.logger.version=logs",
        "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
    ]) == 0  # fmt: skip
    settings = yaml.safe_load((tmp_path / "net/logs/hparams.yaml").read_text())
    assert settings["model"]["classifier"]["depth"] == 10 and settings["trainer"]["max_epochs"] == 1
    if logger == "TensorBoardLogger":
        tags = events(tmp_path / "net/logs").Tags()
        assert {"_hparams_/session_start_info", "settings/text_summary"} <= set(tags["tensors"]) | set(
            events(tmp_path / "net/logs").summary_metadata
        )
