"""Every YAML file under configs/ parses and runs one tiny step."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from lit_pursamere import diffusion
from lit_pursamere.cli import main
from lit_pursamere.diffusion import NCSNv2Score
from lit_pursamere.weights import save_weights

ROOT = Path(__file__).resolve().parents[1]
ALL = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
PURIFIERS, ATTACKS, DATA, SCORE_MODELS = (
    [path for path in ALL if path.parts[1] == folder] for folder in ("purifier", "attack", "data", "score_model")
)
EXPERIMENTS = [path for path in ALL if path not in (*PURIFIERS, *ATTACKS, *DATA, *SCORE_MODELS)]

SMALL_SCORE = {
    "NCSNv2Score": {"ngf": 2},
    "DDPMScore": {"block_out_channels": [4, 4, 4, 4], "norm_num_groups": 2, "layers_per_block": 1},
    "DDPMppScore": {"nf": 4, "num_res_blocks": 1},
    "EDMScore": {"model_channels": 4, "num_blocks": 1},
}
SMALL_NET = ["--model.classifier.depth=10", "--model.classifier.width=1"]


@pytest.fixture
def arrays(tmp_path):
    """A data set in CIFAR-10's format with 12 random images per split."""
    rng = np.random.default_rng(0)
    images = {f"{split}_images": rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8) for split in ("train", "test")}
    labels = {f"{split}_labels": np.arange(12) % 10 for split in ("train", "test")}
    np.savez(tmp_path / "tiny.npz", **images, **labels)
    return tmp_path / "tiny.npz"


def tiny_run(config: Path, folder: Path, arrays: Path) -> list[str]:
    """Arguments that shrink an experiment to one small step, writing below `folder`."""
    content = yaml.safe_load((ROOT / config).read_text())
    task = content["model"]["class_path"].rsplit(".", 1)[1]
    verb = {"LitPurification": "predict", "LitRobustness": "test"}.get(task, "fit")
    args = [verb, "--config", str(ROOT / config), "--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
    args += ["--trainer.devices=1", f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    if "CIFAR10" in content["data"]["class_path"]:
        args += ["--data=lit_pursamere.data.NPZ", f"--data.path={arrays}"]
        if "test_size" in content["data"]["init_args"]:
            args += ["--data.test_size=4"]
    args += ["--data.batch_size=4", "--data.eval_batch_size=4", "--data.num_workers=0", "--data.val_size=4"]
    if task == "LitScoreModel":
        kind = content["model"]["init_args"]["score_model"]["class_path"].rsplit(".", 1)[1]
        args += [f"--model.score_model.{key}={value}" for key, value in SMALL_SCORE[kind].items()]
        return [*args, "--model.compile=false", f"--model.export={folder}/score.safetensors"]
    if task == "LitClassifier":
        return [*args, *SMALL_NET, "--data.purified=null", f"--model.export={folder}/net.safetensors"]
    shape = (3, 32) if "cifar10" in str(config) else (1, 8)
    save_weights(NCSNv2Score(2, *shape), folder / "score.safetensors")
    args += ["--model.purifier.score_model.ngf=2"]
    args += [f"--model.purifier.score_model.checkpoint={folder}/score.safetensors"]
    args += ["--model.purifier.sigmas.stride=60", "--model.purifier.draws=1", f"--model.output={folder}/out"]
    if task == "LitRobustness":
        args += [*SMALL_NET, "--model.checkpoint=null", "--model.pictures=0"]
    return args


@pytest.mark.parametrize("config", EXPERIMENTS, ids=str)
def test_experiments_run_one_tiny_step(config, tmp_path, arrays, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = tiny_run(config, tmp_path, arrays)
    if args[0] == "test":
        shortened = yaml.safe_load((ROOT / config).read_text())["model"]["init_args"]["attacks"]
        args += [f"--model.attacks.{name}.steps=1" for name in shortened]
    assert main(args) == 0, capsys.readouterr().err
    if args[0] == "test":
        systems = 2 if yaml.safe_load((ROOT / config).read_text())["model"]["init_args"].get("undefended", True) else 1
        assert len((tmp_path / "out/report.md").read_text().splitlines()) == 2 + systems
    if args[0] == "predict":
        assert np.load(tmp_path / "out/done.npy").sum() == 4


@pytest.mark.parametrize("config", [*PURIFIERS, *ATTACKS], ids=str)
def test_parts_are_complete(config, tmp_path, capsys):
    """Purifiers purify and attacks attack one random image of the size they are made for."""
    from jsonargparse import ArgumentParser
    from jsonargparse.typing import register_type

    from lit_pursamere.attacks import Attack
    from lit_pursamere.attacks.survivors import SurvivorAttack
    from lit_pursamere.networks import WideResNet
    from lit_pursamere.purifiers import Purifier
    from lit_pursamere.threat import Pixels

    register_type(Pixels, serializer=Pixels.plain, deserializer=Pixels, fail_already_registered=False)
    content = yaml.safe_load((ROOT / config).read_text())
    parser = ArgumentParser(exit_on_error=False)
    if config in PURIFIERS:
        if "score_model" in content.get("init_args", {}):
            shape = content["init_args"]["score_model"]["init_args"]
            x = torch.rand(1, shape["channels"], shape["image_size"], shape["image_size"])
            shape.update(ngf=2, checkpoint=None)
            content["init_args"]["sigmas"]["stride"] = 60
        else:
            x = torch.rand(1, 3, 8, 8)
        parser.add_subclass_arguments(Purifier, "part")
        purifier = parser.instantiate(parser.parse_object({"part": content})).part
        assert purifier(x).shape == x.shape
    else:
        settings = content["init_args"]
        large = ("steps", "eot", "draws", "pairs", "queries", "search_steps", "tries", "evaluations")
        settings.update({key: 2 for key in large if settings.get(key, 0) > 2})
        parser.add_subclass_arguments(Attack, "part")
        attack = parser.instantiate(parser.parse_object({"part": content})).part
        x, network = torch.rand(1, 3, 8, 8), WideResNet(10, 1).eval()
        outcome = attack(network, x, network(x).argmax(1))
        distance = attack.threat.distance(outcome.last, x)
        assert distance <= attack.threat.eps * (1 + 1e-5)
        assert distance > 0 or isinstance(attack, SurvivorAttack)  # these return x where they find nothing


@pytest.mark.parametrize("config", SCORE_MODELS, ids=str)
def test_every_score_model_fits_into_pursamere_from_the_command_line(config, tmp_path, arrays, monkeypatch, capsys):
    """The file replaces the purifier's score model; narrowed, with weights of its own, one tiny test runs."""
    monkeypatch.chdir(tmp_path)
    args = tiny_run(Path("configs/cifar10/tables_1_2.yaml"), tmp_path, arrays)
    args = [arg for arg in args if not arg.startswith("--model.purifier.score_model")]
    kind = yaml.safe_load((ROOT / config).read_text())["class_path"].rsplit(".", 1)[1]
    save_weights(getattr(diffusion, kind)(**SMALL_SCORE[kind]).network, tmp_path / "small.safetensors")
    args += [
        f"--model.purifier.score_model={ROOT / config}",
        "--model.purifier.score_model.checkpoint=small.safetensors",
    ]
    args += [f"--model.purifier.score_model.{key}={value}" for key, value in SMALL_SCORE[kind].items()]
    assert main([*args, "--model.attacks={}"]) == 0, capsys.readouterr().err
    manifest = (tmp_path / "out/manifest.json").read_text()
    assert "PurSAMERE" in manifest and len((tmp_path / "out/report.md").read_text().splitlines()) == 4


@pytest.mark.parametrize("config", DATA, ids=str)
def test_data_configs_parse(config, capsys):
    with pytest.raises(SystemExit) as exit_:
        experiment = str(ROOT / "configs/digits/robustness.yaml")
        main(["test", "--config", experiment, "--config", str(ROOT / config), "--print_config"])
    assert exit_.value.code == 0
    written = yaml.safe_load((ROOT / config).read_text())["data"]
    printed = yaml.safe_load(capsys.readouterr().out)["data"]
    assert printed["class_path"] == written["class_path"]
    assert written.get("init_args", {}).items() <= printed["init_args"].items()
