"""Every YAML file under configs/ parses and runs one tiny step."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type
from torch import nn

from lit_pursamere import diffusion
from lit_pursamere.attacks import Attack
from lit_pursamere.attacks.survivors import SurvivorAttack
from lit_pursamere.cli.main import main
from lit_pursamere.cli.plan import Plan, read_plan
from lit_pursamere.configuration.composition import compose, read_yaml
from lit_pursamere.data import ImageDataModule, PurifiedSet
from lit_pursamere.diffusion import NCSNv2Score
from lit_pursamere.networks import WideResNet
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import Recipe, complete
from lit_pursamere.report import SEMANTICS
from lit_pursamere.threat import Pixels, ThreatModel
from lit_pursamere.weights import save_weights

ROOT = Path(__file__).resolve().parents[2]
ALL = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
FOLDERS = ("purifier", "attack", "data", "score_model", "protocol", "compare", "classifier", "network", "attacks")
PURIFIERS, ATTACKS, DATA, SCORE_MODELS, PROTOCOLS, COMPARISONS, CLASSIFIERS, NETWORKS, SETS = (
    [p for p in ALL if p.parts[1] == folder] for folder in FOLDERS
)
CHAINS = [path for path in ALL if "stages" in yaml.safe_load((ROOT / path).read_text())]  # in test_experiment.py
PLANS = {path: read_plan(ROOT / path) for path in COMPARISONS}
EXPERIMENTS = [path for path in ALL if path.parts[1] not in FOLDERS and path not in CHAINS]

SMALL_SCORE = {
    "NCSNv2Score": {"ngf": 2},
    "DDPMScore": {"block_out_channels": [4, 4, 4, 4], "norm_num_groups": 2, "layers_per_block": 1},
    "DDPMppScore": {"nf": 4, "num_res_blocks": 1},
    "EDMScore": {"model_channels": 4, "num_blocks": 1},
    "AutoencoderScore": {},  # small as it is
}
SMALL_NET = {"depth": 10, "width": 1}


SHAPES = {  # channels and size, by folder
    "cifar10": (3, 32),
    "cifar100": (3, 32),
    "tiny_imagenet": (3, 64),
    "mnist": (1, 28),
    "fashion_mnist": (1, 28),
    "digits": (1, 8),
}


@pytest.fixture
def arrays(tmp_path):
    """A folder with 12 random images per split in the format of every data set that would have to be downloaded."""
    rng = np.random.default_rng(0)
    labels = {f"{split}_labels": np.arange(12) % 10 for split in ("train", "test")}
    for name, (channels, size) in SHAPES.items():
        shape = (12, size, size, channels)
        images = {f"{split}_images": rng.integers(0, 256, shape, dtype=np.uint8) for split in ("train", "test")}
        np.savez(tmp_path / f"{name}.npz", **images, **labels)
    return tmp_path


def shrunk(content, most: int = 2):
    """The content of an attack's file without weight files, and with what makes it long cut to at most `most`."""
    if isinstance(content, list):
        return [shrunk(item, most) for item in content]
    if not isinstance(content, dict):
        return content
    long = ("steps", "eot", "draws", "pairs", "queries", "search_steps", "tries", "evaluations")
    kept = {key: value for key, value in content.items() if key != "checkpoint"}
    return {key: min(value, most) if key in long else shrunk(value, most) for key, value in kept.items()}


def tiny_attacks(config: Path) -> list[str]:
    """Arguments that shorten the attacks of an experiment or protocol, which are files or stand in place."""
    attacks = yaml.safe_load((ROOT / config).read_text())["model"]["init_args"]["attacks"]
    for name, attack in attacks.items():
        if isinstance(attack, str):
            attacks[name] = yaml.safe_load((ROOT / config.parent / attack).read_text())
    return [f"--model.attacks.{name}={json.dumps(shrunk(attack))}" for name, attack in attacks.items()]


def tiny_run(config: Path, folder: Path, arrays: Path, overlay: Path | None = None) -> list[str]:
    """Arguments that shrink an experiment, under a protocol if one is given, to one small step below `folder`."""
    content = yaml.safe_load((ROOT / config).read_text())
    task = content["model"]["class_path"].rsplit(".", 1)[1]
    verb = {"LitPurification": "predict", "LitRobustness": "test", "LitCertification": "certify"}.get(task, "fit")
    args = [verb, "--config", str(ROOT / config), *(["--config", str(ROOT / overlay)] if overlay else [])]
    args += ["--trainer.fast_dev_run=1", "--trainer.accelerator=cpu"]
    args += ["--trainer.devices=1", f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
    name = config.parts[1]
    if not content["data"]["class_path"].endswith("Digits"):
        args += ["--data=lit_pursamere.data.NPZ", f"--data.path={arrays}/{name}.npz"]
    if "test_size" in content["data"]["init_args"]:
        args += ["--data.test_size=4"]
    if "train_size" in content["data"]["init_args"]:
        args += ["--data.train_size=8"]
    args += ["--data.batch_size=4", "--data.eval_batch_size=4", "--data.num_workers=0", "--data.val_size=4"]
    if task == "LitScoreModel":
        model, objective = (content["model"]["init_args"].get(part, {}) for part in ("score_model", "objective"))
        kind = model["class_path"].rsplit(".", 1)[1]
        if name != "digits" or kind == "NCSNv2Score":  # its other networks are small as they are
            args += [f"--model.score_model.{key}={value}" for key, value in SMALL_SCORE[kind].items()]
        args += ["--model.score_model.checkpoint=null"] if "checkpoint" in model.get("init_args", {}) else []
        if "classifier" in objective.get("init_args", {}):
            small = {"checkpoint": "null"} | (SMALL_NET if name == "digits" or "cifar" in name else {})
            parts = {"checkpoint": "checkpoint", "depth": "network.depth", "width": "network.width"}
            args += [f"--model.objective.classifier.{parts[key]}={value}" for key, value in small.items()]
        return [*args, "--model.compile=false", f"--model.export={folder}/score.safetensors"]
    if task == "LitClassifier":
        told = json.dumps(content["model"]["init_args"]["classifier"])
        small = SMALL_NET if "wrn" in told or "WideResNet" in told else {}
        args += [f"--model.classifier.{key}={value}" for key, value in small.items()]
        args += ["--model.checkpoint=null"] if "checkpoint" in content["model"]["init_args"] else []
        return [*args, "--data.purified=null", f"--model.export={folder}/net.safetensors"]
    if task == "LitCertification":
        args += ["--model.score_model.checkpoint=null", "--model.classifier.checkpoint=null"]
        return [*args, "--model.n0=2", "--model.n=10", f"--model.output={folder}/out"]
    channels, size = SHAPES[name]
    if "denoiser" not in str(content["model"]["init_args"].get("score_model")):  # shipped, and small as it is
        save_weights(NCSNv2Score(ngf=2, channels=channels, image_size=size), folder / "score.safetensors")
        args += ["--model.score_model.ngf=2", f"--model.score_model.checkpoint={folder}/score.safetensors"]
    args += [f"--model.output={folder}/out"]
    purifier = str(content["model"]["init_args"].get("purifier"))
    if "malade" not in purifier and "smoothing" not in purifier:  # these have no levels
        args += ["--model.purifier.sigmas.stride=60", "--model.purifier.draws=1"]
    if "detector" in content["model"]["init_args"]:
        args += ["--model.detector.threshold=5"]  # four images calibrate none
    if task == "LitRobustness":
        args += [f"--model.classifier.network.{key}={value}" for key, value in SMALL_NET.items()]
        args += ["--model.classifier.checkpoint=null", "--model.pictures=0"]
    return args


def slow_unless(found: list[Path], *short: Path | str) -> list:
    """The files as parameters; all but these, by path or stem, are for `slow`."""
    return [path if {path, path.stem} & {*short} else pytest.param(path, marks=pytest.mark.slow) for path in found]


# The experiments of the digits have all kinds of tasks; what CIFAR-10's add are score models and bfloat16.
LONG = ("attacks", "views", "score_ddpm", "score_ddpmpp", "sdae", "classifier_behind_pursamere")
SHORT = [path for path in EXPERIMENTS if path.parts[1] == "digits" and path.stem not in LONG]
CIFAR10 = [path for path in EXPERIMENTS if path.parts[1] == "cifar10"]
SHORT += [path for path in CIFAR10 if path.stem in ("score_bf16", "score_ddpm", "score_ddpmpp", "score_edm")]


@pytest.mark.parametrize("config", slow_unless(EXPERIMENTS, *SHORT), ids=str)
def test_experiments_run_one_tiny_step(config, tmp_path, arrays, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = tiny_run(config, tmp_path, arrays)
    if args[0] == "test":
        args += tiny_attacks(config)
    assert main(args) == 0, capsys.readouterr().err
    if args[0] == "test":
        systems = 2 if yaml.safe_load((ROOT / config).read_text())["model"]["init_args"].get("undefended", True) else 1
        assert (tmp_path / "out/report.md").read_text().count("| clean ") == systems
    if args[0] == "certify":
        assert (tmp_path / "out/certified.md").read_text().count("| certified, ") == config.parts.count(
            "digits"
        ) * 2 + 1
    if args[0] == "predict":
        assert PurifiedSet.open(tmp_path / "out").count() == 4


SAMPLE = slow_unless(PROTOCOLS, "leekim", "liu-dw-fwd", "liu-semi-128", "diffhammer")


@pytest.mark.parametrize("config", SAMPLE, ids=lambda path: path.stem)
def test_protocols_replace_attacks_images_and_verdicts_of_an_experiment(config, tmp_path, arrays, monkeypatch, capsys):
    """One tiny step of the protocol on CIFAR-10's experiment; what is judged, and how, is what the file says."""
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((ROOT / config).read_text())
    settings = content["model"]["init_args"]
    assert settings["success"] in SEMANTICS and content["data"]["init_args"].keys() >= {"test_size", "test_seed"}
    assert settings["output"] == f"runs/protocol/{config.stem}"
    args = tiny_run(Path("configs/cifar10/tables_1_2.yaml"), tmp_path, arrays, overlay=config)
    args += tiny_attacks(config)
    args += ["--data.test_size=4", "--data.eval_batch_size=1", "--model.undefended=false"]
    args += ["--model.purifier.sigmas.stride=232"]  # a single level
    if "ensemble" in settings:
        args += ["--model.ensemble.copies=2"]
    status = main([*args, f"--model.evaluations={min(2, settings['evaluations'])}"])
    if config.stem == "liu-dw-fwd":
        assert status == 1 and "PurSAMERE draws nothing on a way forward" in capsys.readouterr().err
        return
    assert status == 0, capsys.readouterr().err
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert list(manifest["attacks"]) == list(settings["attacks"])
    assert manifest["success"] == settings["success"]
    known = 128 if config.stem == "liu-semi-128" else "fixed"
    assert manifest["defenses"]["PurSAMERE"]["purifier"]["noise"] == known


def test_a_protocol_keeps_what_it_does_not_name(capsys):
    experiment, protocol = ROOT / "configs/cifar10/table_3.yaml", ROOT / "configs/protocol/leekim.yaml"
    with pytest.raises(SystemExit) as exit_:
        main(["test", "--config", str(experiment), "--config", str(protocol), "--print_config"])
    assert exit_.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    model, data = printed["model"]["init_args"], printed["data"]
    assert list(model["attacks"]) == ["PGD200-EoT20"]
    attack = model["attacks"]["PGD200-EoT20"]["init_args"]
    assert (attack["steps"], attack["eot"], attack["start"], attack["view"]) == (200, 20, "none", "exact")
    assert (model["evaluations"], model["success"], model["output"]) == (1, "last", "runs/protocol/leekim")
    assert data["class_path"] == "lit_pursamere.data.CIFAR10" and data["init_args"]["root"] == "data"
    assert [data["init_args"][f"test_{key}"] for key in ("size", "seed", "generator")] == [512, 0, "RandomState"]
    assert (
        model["purifier"]["init_args"]["rho_pur"] == 3.0
        and model["classifier"]["init_args"]["network"]["init_args"]["depth"] == 28
    )


def test_every_protocol_is_in_the_table():
    table = (ROOT / "docs/protocols.md").read_text().splitlines()
    rows = [line.split("|")[1].strip(" `") for line in table if line.startswith("| `")]
    assert sorted(rows) == sorted(path.stem for path in PROTOCOLS)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--config", "configs/protocol/nonsense.yaml"], "configs/protocol/nonsense.yaml"),
        (["--model.attacks.PGD", "configs/attack/nonsense.yaml"], "nonsense"),
        (
            [
                "--model.success",
                "sometimes",
                "--model.purifier",
                "Identity",
                "--model.classifier.checkpoint",
                "null",
                "--model.score_model",
                "null",
            ],
            "success.*sometimes",
        ),
        (["--data.test_generator", "dice"], "test_generator.*dice"),
    ],
)
def test_an_unknown_protocol_or_setting_is_one_line(args, expected, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["test", "--config", "configs/cifar10/tables_1_2.yaml", *args]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert re.search(expected, lines[0]), lines
    assert len(lines) == 2 and lines[1].startswith("(LIT_PURSAMERE_TRACEBACK=1")


class WithPurifier:
    def __init__(self, part: Purifier | Recipe) -> None:
        self.part = part


class WithNetwork:
    def __init__(self, part: nn.Module) -> None:
        self.part = part


class WithAttack:
    def __init__(self, part: Attack) -> None:
        self.part = part


class WithData:
    def __init__(self, part: ImageDataModule) -> None:
        self.part = part


def parser_of(holder: type) -> ArgumentParser:
    """A parser of one part, as the command line has it."""
    register_type(Pixels, serializer=Pixels.plain, deserializer=Pixels, fail_already_registered=False)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(holder, "holder", sub_configs=True)
    return parser


def instantiate(holder: type, config: Path, changes: Callable[[Namespace], None] = lambda settings: None):
    """The part that a file describes, as the command line would give it to the holder, with changes of its settings."""
    parser = parser_of(holder)
    parsed = parser.parse_args([f"--holder.part={config}"])
    changes(parsed.holder.part.get("init_args", Namespace()))
    return parser.instantiate(parsed).holder.part


def purify_one(config: Path | str, channels: int, size: int) -> None:
    """With tiny networks and few steps, a purifier purifies one random image."""

    def shrink(settings: Namespace) -> None:
        if score := settings.get("score_model"):
            score.init_args.update(Namespace(checkpoint=None))
        if "stride" in settings.get("sigmas", ()):
            settings["sigmas.stride"] = 60
            settings.pop("enough", None)  # has a number for every level
        few = {"dt": 0.02, "rounds": 1, "steps": min(settings.get("steps", 0), 50)}
        settings.update(Namespace(**{key: value for key, value in few.items() if key in settings}))

    purifier = complete(
        instantiate(WithPurifier, config, shrink), NCSNv2Score(ngf=2, channels=channels, image_size=size)
    )
    x = torch.rand(1, channels, size, size)
    assert purifier.in_front_of(WideResNet(10, 1, channels=channels).eval())(x).shape == x.shape


@pytest.mark.parametrize("config", PURIFIERS, ids=str)
def test_purifiers_are_complete(config):
    purify_one(ROOT / config, *((1, 8) if config.stem.endswith("_digits") else (3, 32)))


@pytest.mark.parametrize("config", CLASSIFIERS, ids=str)
def test_classifiers_are_complete(config, monkeypatch):
    """A classifier is a network and its weights; its own, where they are shipped."""
    monkeypatch.chdir(ROOT)

    def shrink(settings: Namespace) -> None:
        if not Path(settings.checkpoint).is_file():
            settings.update(Namespace(checkpoint=None))
            if settings.network.class_path.endswith(("WideResNet", "WideResNetADP")):
                settings.network.init_args.update(Namespace(**SMALL_NET))

    network = instantiate(WithNetwork, ROOT / config, shrink).eval()
    grey = config.stem.startswith(("digits", "fashion_mnist", "mnist", "lenet5"))
    size = 28 if config.stem.startswith(("mnist", "lenet5")) else 64 if config.stem.endswith("tiny_imagenet") else 32
    classes = {"cifar100": 100, "imagenet": 200}.get(config.stem.rpartition("_")[2], 10)
    assert network(torch.rand(1, 1 if grey else 3, size, size)).shape == (1, classes)


@pytest.mark.parametrize("config", NETWORKS, ids=str)
def test_networks_are_complete(config, monkeypatch):
    monkeypatch.chdir(ROOT)
    with torch.device("meta"):
        assert isinstance(instantiate(WithNetwork, ROOT / config), nn.Module)


# Of a grid of one purifier, and of a sweep, the ends.
def ends(plan: Plan) -> list[str]:
    last = {getattr(plan.places.get(name), "purifier", name): name for name in plan.purifiers}
    first = {getattr(plan.places.get(name), "purifier", name): name for name in reversed(plan.purifiers)}
    return [name for name in plan.purifiers if name in {*first.values(), *last.values()}]


ENTRIES = {config: ends(plan) for config, plan in PLANS.items()}
ENTRIES |= {config: [names[0], names[-1]] for config, names in ENTRIES.items() if config.stem.endswith("_choice")}


@pytest.mark.parametrize(
    ("config", "name"), [(config, name) for config, names in ENTRIES.items() for name in names], ids=str
)
def test_purifiers_of_comparisons_are_complete(config, name, tmp_path):
    composed, *_ = compose(PLANS[config].arguments(name))
    purifier = json.loads(composed.removeprefix("--config="))["model"]["init_args"]["purifier"]
    if isinstance(purifier, dict):
        (tmp_path / "purifier.yaml").write_text(json.dumps(purifier))
        purifier = tmp_path / "purifier.yaml"
    purify_one(purifier, 1, 8)


# Others have rows like theirs; eighteen attacks take minutes however short they are.
LARGE = (
    "cifar10_coup", "cifar10_nfe", "cifar10_two_cores", "cifar10_two_cores_choice", "digits_adbm", "digits_addt",
    "digits_coup", "digits_hoang", "digits_liu", "mnist_adversarial", "mnist_malade", "mnist_malade_choice",
)  # fmt: skip
WHOLE = [  # others are their base's
    path for path in COMPARISONS if path.stem not in LARGE and "base" not in yaml.safe_load((ROOT / path).read_text())
]
FEW = {"COUP Wang l2": {"model.purifier.dt": 0.05}}  # instead of a hundred steps


@pytest.mark.slow
@pytest.mark.parametrize("config", WHOLE, ids=str)
def test_comparisons_run_one_tiny_step(config, tmp_path, monkeypatch, capsys, arrays):
    """Two purifiers of each, on two images, under a tiny attack of each class, which all rows share."""
    monkeypatch.chdir(ROOT)
    plan = read_plan(config)
    names, task = [*plan.purifiers][:2], plan.test["model"]["init_args"]
    options = ["--data.test_size=2", "--data.eval_batch_size=2", "--trainer.enable_progress_bar=false"]
    images = plan.test["data"]["class_path"].rpartition(".")[2].lower()
    if images != "digits":  # neither images nor weights are here, and the last rows are the paper's
        names = [names[0], [*plan.purifiers][-1]]
        options += ["--data=lit_pursamere.data.NPZ", f"--data.path={arrays}/{images}.npz", "--data.val_size=4"]
        channels, size = SHAPES[images]
        told = {"ngf": 2, "channels": channels, "image_size": size}
        score = {"class_path": "lit_pursamere.diffusion.NCSNv2Score", "init_args": told}
        network = {"class_path": "lit_pursamere.networks.WideResNet", "init_args": SMALL_NET}
        small = "=" + json.dumps(network) if images == "cifar10" else ".checkpoint=null"
        options += [f"--model.classifier{small}", f"--model.score_model={json.dumps(score)}"]
    elif "runs/" in json.dumps(task["classifier"]):
        options += ["--model.classifier=digits/wrn-10-2-pairs"]
    attacks = {attack["class_path"]: (attack_name, shrunk(attack)) for attack_name, attack in task["attacks"].items()}
    options += [f"--model.attacks={json.dumps(dict(attacks.values()))}"]
    (tmp_path / "short.yaml").write_text(json.dumps({"base": str(ROOT / config), "output": "out", "purifiers": FEW}))
    file = tmp_path / "short.yaml" if FEW.keys() <= plan.purifiers.keys() else config
    args = ["compare", str(file), "--output", str(tmp_path / "out"), "--only", *names, *options]
    assert main(args) == 0, capsys.readouterr().err
    table = capsys.readouterr().out
    assert all(f"| {name}" in table for name in names) and "missing" not in table
    assert (tmp_path / "out" / names[-1] / "cost.json").is_file()


LIBRARY = [path.stem for path in ATTACKS if path.stem.startswith("autoattack")]  # its number of steps is its own


@pytest.mark.parametrize("config", slow_unless(ATTACKS, *({p.stem for p in ATTACKS} - {*LIBRARY})), ids=str)
def test_attacks_are_complete(config, tmp_path):
    """Shortened, each attacks one random image within its budget."""
    (tmp_path / "attack.yaml").write_text(yaml.safe_dump(shrunk(read_yaml(ROOT / config))))
    attack = instantiate(WithAttack, tmp_path / "attack.yaml").within(ThreatModel("linf", 8 / 255))
    channels = 1 if config.stem == "detector_pgd" else 3  # its autoencoder wants the digits' one channel
    x, network = torch.rand(1, channels, 8, 8), WideResNet(10, 1, channels=channels).eval()
    outcome = attack(network, x, network(x).argmax(1))
    distance = attack.threat.distance(outcome.last, x)
    assert distance <= attack.threat.eps * (1 + 1e-5)
    assert distance > 0 or isinstance(attack, SurvivorAttack)  # these return x where they find nothing


FULL = [path for path in SCORE_MODELS if path.stem in ("ddpm", "ddpmpp", "edm", "ncsnv2")]


@pytest.mark.parametrize("config", slow_unless(FULL, "ddpm", "edm"), ids=str)
def test_every_score_model_fits_into_pursamere_from_the_command_line(config, tmp_path, arrays, monkeypatch, capsys):
    """The file replaces the purifier's score model; narrowed, with weights of its own, one tiny test runs."""
    monkeypatch.chdir(tmp_path)
    args = tiny_run(Path("configs/cifar10/tables_1_2.yaml"), tmp_path, arrays)
    args = [arg for arg in args if not arg.startswith("--model.score_model")]
    kind = yaml.safe_load((ROOT / config).read_text())["class_path"].rsplit(".", 1)[1]
    save_weights(getattr(diffusion, kind)(**SMALL_SCORE[kind]).network, tmp_path / "small.safetensors")
    args += [
        f"--model.score_model={ROOT / config}",
        "--model.score_model.checkpoint=small.safetensors",
    ]
    args += [f"--model.score_model.{key}={value}" for key, value in SMALL_SCORE[kind].items()]
    assert main([*args, "--model.attacks={}"]) == 0, capsys.readouterr().err
    manifest = (tmp_path / "out/manifest.json").read_text()
    assert "PurSAMERE" in manifest and (tmp_path / "out/report.md").read_text().count("| clean ") == 2


@pytest.mark.parametrize("config", [p for p in SCORE_MODELS if p.stem.startswith("digits_")], ids=str)
def test_a_score_model_of_a_single_level_is_refused_where_several_are_needed(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    args = ["--model.score_model", str(config), "--model.classifier.checkpoint=null", "--trainer.fast_dev_run=1"]
    args += [f"--model.output={tmp_path}"]
    assert main(["test", "--config", "configs/digits/robustness.yaml", *args]) == 1
    assert "the weights of AutoencoderScore were trained from" in capsys.readouterr().err


@pytest.mark.parametrize("config", DATA, ids=str)
def test_data_configs_parse(config):
    parser = parser_of(WithData)
    parsed = yaml.safe_load(parser.dump(parser.parse_args([f"--holder.part={ROOT / config}"])))["holder"]["part"]
    written = yaml.safe_load((ROOT / config).read_text())
    assert parsed["class_path"] == written["class_path"]
    assert written.get("init_args", {}).items() <= parsed["init_args"].items()


@pytest.mark.parametrize("config", SETS, ids=lambda path: path.stem)
def test_sets_of_attacks_build(config):
    from lit_pursamere.front.attacks import resolved

    built, told = resolved(config.stem, classes=10, draws=False)
    assert built.keys() == told.keys() and len(built) >= 2
    assert all(attack.view in ("gray", "bpda", "exact") for attack in built.values())
