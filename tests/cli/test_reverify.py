"""reverify finds the verdicts that hang on rounding, and refuses to judge with anything but the run's own defence."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from lit_pursamere.cli.main import main
from lit_pursamere.diffusion import NCSNv2Score
from lit_pursamere.networks import WideResNet
from lit_pursamere.weights import save_weights

CONFIG = """
seed_everything: 0
model:
  class_path: LitRobustness
  init_args:
    score_model: {class_path: NCSNv2Score, init_args: {ngf: 2, channels: 1, image_size: 8}}
    purifier:
      class_path: PurSAMERE
      init_args:
        rho_pur: 0.5
        rho_sam: 0.1
        draws: 1
        sigmas: [0.5, 0.1]
    classifier:
      class_path: lit_pursamere.weights.trained
      init_args:
        network: {class_path: lit_pursamere.networks.WideResNet, init_args: {depth: 10, width: 1, channels: 1}}
        checkpoint: null
    attacks: {BPDA: {class_path: PGD, init_args: {threat: {norm: linf, eps: 8/255}, steps: 2}}}
    pictures: 0
data: {class_path: Digits, init_args: {eval_batch_size: 4, test_size: 10}}
trainer: {accelerator: cpu, logger: false, enable_progress_bar: false, enable_model_summary: false}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A finished run with images, made with weights in files."""
    folder = tmp_path_factory.mktemp("reverify")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_weights(WideResNet(10, 1, channels=1), folder / "net.safetensors")
        save_weights(NCSNv2Score(ngf=2, channels=1, image_size=8), folder / "score.safetensors")
    (folder / "test.yaml").write_text(CONFIG)
    args = [
        "test", f"--config={folder}/test.yaml", f"--model.classifier.checkpoint={folder}/net.safetensors",
        f"--model.score_model.checkpoint={folder}/score.safetensors",
        f"--model.output={folder}/run", "--model.save_images=true", f"--trainer.default_root_dir={folder}",
    ]  # fmt: skip
    assert main(args) == 0
    return folder


@pytest.fixture
def run(template):
    """The folder of the run; what a test changes there is put back."""
    folder = template / "run"
    before = {path: path.read_bytes() for path in [*folder.iterdir(), template / "net.safetensors"] if path.is_file()}
    yield folder
    for path, content in before.items():
        path.write_bytes(content)


def error_of(capsys, *args):
    assert main(["reverify", *map(str, args)]) == 1
    return capsys.readouterr().err


def test_the_same_judge_agrees_with_itself(run, capsys):
    assert main(["reverify", str(run)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("0 of 60 verdicts differ (0.00 %)") and "batches of 4, float32, cpu" in text
    written, line = text.split("\n\n")
    assert (run / "reverify.md").read_text() == f"{written}\n"
    assert line.startswith(f"disagreements written to {run}/reverify.md; 0 of 60 verdicts differ; next: ")


def test_an_incomplete_run_is_told(run, capsys):
    lines = (run / "records-0.jsonl").read_text().splitlines(keepends=True)
    (run / "records-0.jsonl").write_text("".join(lines[:-3]))
    assert main(["reverify", str(run)]) == 0
    assert "; the run is not complete: 37 of 40 rows; next: " in capsys.readouterr().out


@pytest.mark.slow
def test_a_stochastic_defence_meets_the_same_noise_again(template, capsys):
    folder = template / "fresh"
    args = [
        "test", f"--config={template}/run/config.yaml", "--model.noise=fresh", "--model.evaluations=2",
        "--model.ensemble.copies=2", f"--model.output={folder}",
    ]  # fmt: skip
    assert main(args) == 0
    assert main(["reverify", str(folder)]) == 0
    assert "\n0 of 60 verdicts differ" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--batch_size", "3"], ["--precision", "64"]])
def test_other_ways_to_judge(run, options, capsys):
    assert main(["reverify", str(run), *options]) == 0
    assert " of 60 verdicts differ" in capsys.readouterr().out


def test_every_disagreement_is_named(run, capsys):
    """Verdicts written down wrongly stand in for verdicts that rounding changes."""
    file = run / "records-0.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    changed = next(row for row in rows if row["attack"] == "BPDA" and row["index"] == 3)
    then = changed["prediction_any"]
    changed["prediction_any"] = (then + 1) % 10
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["reverify", str(run)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("1 of 60 verdicts differ (1.67 %)")
    line = f"| 3 | {changed['system']} | BPDA | any | {changed['label']} | {(then + 1) % 10} | {then} |"
    for told in (text, (run / "reverify.md").read_text()):
        assert line in [" ".join(row.split()) for row in told.splitlines()]


def test_other_weights_are_refused(run, template, capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_weights(WideResNet(10, 1, channels=1), template / "net.safetensors")
    assert "the weights of " in error_of(capsys, run)


@pytest.mark.parametrize("setting, value", [("rho_pur", 0.6), ("lr_max", 0.05), ("lr_schedule", "as_printed")])
def test_another_purifier_is_refused(setting, value, run, tmp_path, capsys):
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["model"]["init_args"]["purifier"]["init_args"][setting] = value
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    error = error_of(capsys, run, "--config", tmp_path / "other.yaml")
    assert "PurSAMERE of the run in" in error and f"{setting}: there" in error and f"now {value!r}" in error


def test_a_configuration_without_a_model_is_refused(run, tmp_path, capsys):
    content = yaml.safe_load((run / "config.yaml").read_text())
    del content["model"]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content))
    assert "has no `model`" in error_of(capsys, run, "--config", tmp_path / "other.yaml")


def test_missing_images_name_the_mend(run, capsys):
    file = run / "records-0.jsonl"
    rows = [json.loads(line) | {"stored": None} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "--model.save_images true" in error_of(capsys, run)


def test_what_is_not_there_is_named(run, tmp_path, capsys):
    assert "no run in" in error_of(capsys, tmp_path)
    assert "--batch_size must be at least 1; got 0" in error_of(capsys, run, "--batch_size", "0")
    (run / "config.yaml").unlink()
    assert "--config" in error_of(capsys, run)


@pytest.mark.parametrize("entry", ["label", "prediction_any", "seed"])
def test_rows_that_hold_no_verdict_are_refused(entry, run, capsys):
    file = run / "records-0.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    del rows[-1][entry]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert f"has rows without {entry}; remove them" in error_of(capsys, run)


@pytest.mark.parametrize("entry", ["defenses", "slots", "weights"])
def test_a_manifest_that_does_not_say_what_judged_is_refused(entry, run, capsys):
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest[entry]
    (run / "manifest.json").write_text(json.dumps(manifest))
    file = run / "records-0.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({k: v for k, v in row.items() if k != "run"}) + "\n" for row in rows))
    assert f"manifest.json is damaged: it does not state {entry}" in error_of(capsys, run)
