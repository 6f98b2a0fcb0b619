"""An experiment runs its stages in order, skips a training that is done, continues one that is not, and says what
differs where something else made what is there."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from lit_pursamere.cli import experiment
from lit_pursamere.cli.experiment import read_stages, remaining, run_experiment
from lit_pursamere.cli.main import main
from lit_pursamere.store.manifest import write_manifest

ROOT = Path(__file__).resolve().parents[2]
FILES = [file for file in sorted((ROOT / "configs").rglob("*.yaml")) if "stages" in yaml.safe_load(file.read_text())]


def written(folder, *stages):
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump({"stages": list(stages)}))
    return file


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_stages_of_the_files_in_configs_parse(file, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for words in read_stages(file):
        if words[0] != "report":
            with pytest.raises(SystemExit) as exit_:
                main([*words, "--print_config"])
            assert exit_.value.code == 0, (words, capsys.readouterr().err)


def test_the_short_quickstart_is_the_quickstart():
    long, short = (read_stages(ROOT / f"configs/digits/{name}.yaml") for name in ("experiment", "experiment_short"))
    assert [words[:3] for words in short] == long


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("stages: fit", "a list of commands"),
        ("stages: []", "a list of commands"),
        ("- fit", "a list of commands"),
        ("stages: [train --config x]", "must begin with one of .*got 'train --config x'"),
        ("stages: [", "is not YAML"),
        (None, "no experiment at .*experiment.yaml"),
    ],
    ids=["word", "empty", "list", "verb", "yaml", "missing"],
)
def test_mistakes_in_a_file_are_one_line(content, message, tmp_path, capsys):
    if content is not None:
        (tmp_path / "experiment.yaml").write_text(content)
    assert main(["experiment", str(tmp_path / "experiment.yaml")]) == 1
    first, *others = capsys.readouterr().err.splitlines()
    assert re.search(message, first) and len(others) == 1


def test_stages_run_in_order_until_one_fails(tmp_path, monkeypatch, capsys):
    seen = []

    def run(words):
        seen.append(shlex.join(words))
        return 3 if words[0] == "test" else 0

    monkeypatch.setattr(experiment, "run", run)
    file = written(tmp_path, "predict --config a", "report b", "test --config c", "report d")
    with pytest.raises(SystemExit) as exit_:
        main(["experiment", str(file), "--trainer.devices", "2"])
    assert exit_.value.code == 3
    assert seen == ["predict --config a --trainer.devices 2", "report b", "test --config c --trainer.devices 2"]
    assert "Stage 3 of 4: lit-pursamere test" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["WORLD_SIZE", "SLURM_NTASKS"])
def test_it_is_started_once(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match="stages one by one"):
        run_experiment(written(tmp_path, "report a"))


def test_a_stage_has_a_process_and_a_status_of_its_own(tmp_path):
    assert experiment.run(["--version"]) == 0
    assert experiment.run(["report", str(tmp_path)]) == 1


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Arguments of a training of one epoch below tmp_path."""
    monkeypatch.chdir(ROOT)
    return [
        "fit", "--config=configs/digits/classifier.yaml", "--data.purified=null", "--data.val_size=1300",
        "--model.classifier.width=1", "--trainer.max_epochs=1", f"--model.export={tmp_path}/net.safetensors",
        f"--trainer.logger.save_dir={tmp_path}", "--trainer.enable_progress_bar=false",
        "--trainer.limit_val_batches=0",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_training_is_run_then_continued_then_complete(fit, tmp_path):
    assert remaining(fit) == fit
    assert main(fit) == 0
    with safe_open(tmp_path / "net.safetensors", "pt") as file:
        configuration = json.loads(file.metadata()["configuration"])
    assert configuration["model"]["lr"] == 0.1 and configuration["trainer"]["max_epochs"] == 1
    assert remaining(fit) is None
    assert remaining([*fit, "--data.num_workers=1"]) is None
    with pytest.raises(ValueError, match=r"net\.safetensors .*model\.lr: there 0\.1, now 0\.2\)"):
        remaining([*fit, "--model.lr=0.2"])
    (tmp_path / "net.safetensors").unlink()
    last = tmp_path / "classifier/logs/checkpoints/last.ckpt"
    assert remaining(fit) == [*fit, f"--ckpt_path={last}"]
    with pytest.raises(ValueError, match=r"last\.ckpt .*trainer\.max_epochs: there 1, now 2"):
        remaining([*fit, "--trainer.max_epochs=2"])
    assert main(remaining(fit)) == 0 and remaining(fit) is None


def test_a_training_on_other_purified_images_is_not_complete(fit, tmp_path):
    """The set was made again with another purifier after the training."""
    (tmp_path / "purified").mkdir()
    assert main(fit) == 0
    write_manifest(tmp_path / "purified", {"purifier": "another"})
    with pytest.raises(ValueError, match=r"purified: there None, now \{'purifier': 'another'\}"):
        remaining([*fit, f"--data.purified={tmp_path}/purified"])


def test_weights_that_do_not_say_where_they_come_from_are_not_taken_for_complete(fit, tmp_path):
    (tmp_path / "net.safetensors").write_bytes((ROOT / "checkpoints/digits/classifier.safetensors").read_bytes())
    with pytest.raises(ValueError, match="does not say what configuration made it"):
        remaining(fit)
    with pytest.raises(ValueError, match=r"needs `model\.export`"):
        remaining([*fit, "--model.export=null"])
