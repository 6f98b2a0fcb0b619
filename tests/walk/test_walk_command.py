"""`lit-pursamere walk`, on a configuration of a test: one command a figure, and one test for all of them."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from matplotlib.image import imread

from lit_pursamere.cli.main import main
from lit_pursamere.networks import WideResNet
from lit_pursamere.weights import save_weights

CONFIG = """
seed_everything: 0
model:
  class_path: LitRobustness
  init_args:
    score_model: {class_path: AutoencoderScore, init_args: {network: {class_path: DenoisingAutoencoder, init_args: {channels: 1, width: 2}}}}
    purifier: {class_path: MALADE, init_args: {steps: 3}}
    classifier:
      class_path: lit_pursamere.weights.trained
      init_args: {network: {class_path: WideResNet, init_args: {depth: 10, width: 1, channels: 1}}}
    threat: {norm: linf, eps: 0.2}
    attacks: {A: {class_path: PGD, init_args: {view: bpda, steps: 1}}, B: {class_path: PGD, init_args: {view: bpda, steps: 2}}}
    pictures: 0
    undefended: false
    preflight: false
data: {class_path: Digits, init_args: {eval_batch_size: 4, test_size: 6}}
trainer: {accelerator: cpu, logger: false, enable_progress_bar: false, enable_model_summary: false}
"""  # noqa: E501


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("walk")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_weights(WideResNet(10, 1, channels=1), folder / "net.safetensors")
    (folder / "test.yaml").write_text(CONFIG)
    return folder


def walk(folder, *words, output="run"):
    return main([
        "walk", f"--config={folder}/test.yaml", f"--model.classifier.checkpoint={folder}/net.safetensors",
        f"--trainer.default_root_dir={folder}", f"--model.output={folder}/{output}", *words,
    ])  # fmt: skip


def test_every_look_draws_its_figure_after_one_test(world, capsys):
    looks = {
        "confidence": (),
        "strips": ("--walk=Strips", "--walk.count=2", "--walk.steps=[1]"),
        "reconstruction-errors": (
            "--walk=ReconstructionErrors",
            "--walk.sigmas=[0.3872983346207417]",
            "--walk.draws=2",
        ),
    }
    rows = set()
    for name, words in looks.items():
        assert walk(world, *words) == 0, capsys.readouterr().err
        told = capsys.readouterr().out.splitlines()[-1]
        assert told.startswith(f"{world}/run/{name}.png and .json written") and "next: lit-pursamere report" in told
        height, width, _ = imread(world / f"run/{name}.png").shape
        assert width > 700 and height > 200
        assert json.loads((world / f"run/{name}.json").read_text())["n"] == 6 - 4 * (name == "strips")
        rows.add((world / "run/records-0.jsonl").read_text())
    assert len(rows) == 1, "a test that is done is not run again"
    strips = json.loads((world / "run/strips.json").read_text())["strips"]
    assert [strip["label"] for strip in strips] == ["A", "B"] * 2
    assert list(strips[0]) == ["label", "clean", "attacked", "step 1", "purified"]
    config = yaml.safe_load((world / "run/config.yaml").read_text())
    assert "walk" not in config and config["model"]["init_args"]["save_images"] is True
    assert main(["report", str(world / "run")]) == 0 and main(["test", f"--config={world}/run/config.yaml"]) == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--walk.attack=C",), "the configuration has no attack 'C'; it has A, B"),
        (("--walk.count=2",), "count"),
        (("--walk=Strips", "--walk.steps=[0]"), "steps of at least 1"),
        (("--walk=Stripes",), "Stripes"),
        (("--walk=ReconstructionErrors",), "MALADE has no noise levels; name some with --walk.sigmas"),
    ],
)
def test_mistakes_are_told_in_a_line_before_the_test(world, words, told, capsys):
    assert walk(world, *words, output="never") == 1
    assert told in capsys.readouterr().err
    assert not (world / "never").exists()


def test_a_folder_whose_images_were_not_kept_is_refused(world, capsys):
    words = [f"--config={world}/test.yaml", f"--model.classifier.checkpoint={world}/net.safetensors",
             f"--trainer.default_root_dir={world}", f"--model.output={world}/bare"]  # fmt: skip
    assert main(["test", *words]) == 0
    assert walk(world, output="bare") == 1
    assert "holds no images for 6 of 6 rows" in capsys.readouterr().err
