"""The command line: verbs, composition of configurations, and one readable line for every mistake."""

import re

import pytest
import yaml

from lit_pursamere import __version__
from lit_pursamere.cli.main import main

ROBUST = ["test", "--config", "configs/digits/robustness.yaml"]


@pytest.fixture(autouse=True)
def repository(repository_root, monkeypatch):
    monkeypatch.chdir(repository_root)


def printed_config(capsys, *args):
    with pytest.raises(SystemExit) as exit_:
        main([*args, "--print_config"])
    assert exit_.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def error_of(capsys, *args):
    assert main(list(args)) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-2].startswith("lit-pursamere: error: "), lines
    return lines[-2]


def test_usage_and_version(capsys):
    assert main(["--help"]) == 0
    assert "predict" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main([]) == 2
    assert main(["purfy"]) == 2
    assert "unknown verb 'purfy'" in capsys.readouterr().err


def test_fractions_parse_and_are_saved_as_written(capsys):
    config = printed_config(capsys, *ROBUST, "--model.threat.eps", "8/255")
    threat = config["model"]["init_args"]["threat"]
    assert threat == {"norm": "linf", "eps": "8/255"}
    config = printed_config(capsys, *ROBUST)
    assert config["model"]["init_args"]["threat"]["eps"] == 0.15


def test_a_value_of_the_wrong_kind_is_named(capsys):
    assert main([*ROBUST, "--model.noise", "sometimes"]) == 1
    assert re.search('"noise": Expected .*fresh.* got sometimes$', capsys.readouterr().err.splitlines()[0])


def test_a_test_prints_its_own_table_and_no_other(capsys, tmp_path):
    assert printed_config(capsys, *ROBUST)["verbose"] is False
    assert printed_config(capsys, *ROBUST, "--verbose", "true")["verbose"] is True
    assert printed_config(capsys, "validate", "--config", "configs/digits/score.yaml")["verbose"] is True
    options = {
        "model.purifier": "Identity", "model.attacks": "{}", "model.pictures": "0",
        "model.output": str(tmp_path / "out"), "data.test_size": "2", "trainer.logger": "false",
        "trainer.default_root_dir": str(tmp_path),
    }  # fmt: skip
    assert main([*ROBUST, *(word for name, value in options.items() for word in (f"--{name}", value))]) == 0
    text = capsys.readouterr().out
    assert "| Identity | clean " in text and "Test metric" not in text


def test_configs_compose(capsys):
    config = printed_config(
        capsys, *ROBUST, "--data", "configs/data/cifar10.yaml", "--model.purifier", "configs/purifier/pursamere.yaml",
        "--model.purifier.rho_pur", "2.5", "--model.purifier.seed", "3",
    )  # fmt: skip
    purifier = config["model"]["init_args"]["purifier"]["init_args"]
    assert config["data"]["class_path"] == "lit_pursamere.data.CIFAR10"
    assert (purifier["rho_pur"], purifier["rho_sam"], purifier["draws"], purifier["seed"]) == (2.5, 1.5, 4, 3)
    assert purifier["sigmas"]["count"] == 232
    assert config["trainer"]["inference_mode"] is False
    assert config["trainer"]["use_distributed_sampler"] is False


FIVE = """
data: {root}/data/cifar10.yaml
model:
  class_path: LitRobustness
  init_args:
    threat: {{norm: linf, eps: 8/255}}
    score_model: {root}/score_model/ncsnv2.yaml
    purifier: {root}/purifier/pursamere.yaml
    classifier: {root}/classifier/wrn_28_10_pairs.yaml
    noise: null
    attacks: {{gPGD20: {root}/attack/gpgd20.yaml, BPDA20-det: {root}/attack/bpda20.yaml}}
"""


def test_a_test_describes_five_things_each_in_one_place(repository_root, tmp_path, capsys):
    (tmp_path / "test.yaml").write_text(FIVE.format(root=repository_root / "configs"))
    config = printed_config(capsys, "test", "--config", str(tmp_path / "test.yaml"), "--model.noise", "fresh")
    task = config["model"]["init_args"]
    assert config["data"]["class_path"] == "lit_pursamere.data.CIFAR10" and task["noise"] == "fresh"
    assert task["threat"] == {"norm": "linf", "eps": "8/255"}
    assert task["score_model"]["class_path"] == "lit_pursamere.diffusion.NCSNv2Score"
    assert "score_model" not in task["purifier"]["init_args"]
    assert task["classifier"]["init_args"].keys() >= {"network", "checkpoint"}
    assert [attack["init_args"]["threat"] for attack in task["attacks"].values()] == [None, None]


def test_short_class_names(capsys):
    config = printed_config(capsys, *ROBUST, "--model.purifier", "Identity")
    assert config["model"]["init_args"]["purifier"]["class_path"] == "lit_pursamere.Identity"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--config", "configs/nope.yaml"], "configs/nope.yaml"),
        (["--model.purifer", "x"], "takes no 'purifer'; did you mean purifier?"),
        (["--model.purifier.rho_purr", "1"], "takes no 'rho_purr'; did you mean rho_pur?"),
        (["--model.score_model.ngff", "8"], "Option 'ngff' is not accepted"),
        (["--model.purifier.rho_pur", "wide"], "Got value: wide"),
        (["--model.purifier.rho_pur", "-1"], "rho_pur=-1.0"),
        (["--model.threat.eps", "8/0"], "'8/0' is neither a number nor a fraction"),
        (["--model.threat.norm", "l3"], "l3"),
        (["--model.classifier.checkpoint", "nope.safetensors"], "no weight file at nope.safetensors"),
        (["--model.classifier.checkpoint", "README.md"], "README.md is not a readable weight file"),
        (["--model.classifier.network.width", "3"], "shapes differ"),
        (["--model.score_model", "null"], "PurSAMERE needs a score model: name one as `score_model`"),
        (["--model.purifier", "PurSAMER"], "model.purifier: there is no class PurSAMER here, and no file of that name"),
        (["--model.purifier", "my_own.Blur"], "model.purifier: there is no module my_own; the folder"),
        (["--model.purifier", "lit_pursamere.purifiers.Blur"], "module lit_pursamere.purifiers has no class Blur"),
        (["--model.threat", "null"], "the attack gPGD20 names no threat model"),
        (["--data.test_size", "400"], "test_size=400 exceeds the 397 test images"),
    ],
)  # fmt: skip
def test_mistakes_get_one_readable_line(capsys, tmp_path, args, expected):
    defaults = [
        "--model.output", str(tmp_path), "--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path),
    ]  # fmt: skip
    error = error_of(capsys, *ROBUST, *defaults, *args)
    assert expected in error and "Namespace(" not in error and "Callable" not in error


def test_report_without_records(capsys, tmp_path):
    assert "no records in" in error_of(capsys, "report", str(tmp_path))


def test_figure(capsys, tmp_path):
    out = tmp_path / "new/figure.png"
    assert main(["figure", "reconstruction-error", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_figure_in_another_format_leaves_nothing(capsys, tmp_path):
    assert "in .png, .pdf, .svg; got" in error_of(
        capsys, "figure", "reconstruction-error", str(tmp_path / "new/figure.bmp")
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory, repository_root):
    """Checkpoint of a training run after its first epoch, and the arguments that the run was started with."""
    folder = tmp_path_factory.mktemp("run")
    args = [
        "fit", "--config", str(repository_root / "configs/digits/score.yaml"), "--model.score_model.ngf=2",
        f"--trainer.default_root_dir={folder}", f"--trainer.logger.save_dir={folder}", "--trainer.max_epochs=1",
        "--trainer.enable_progress_bar=false", "--trainer.limit_train_batches=2", "--model.sample_every=0",
        "--trainer.callbacks=ModelCheckpoint", f"--trainer.callbacks.dirpath={folder}",
        "--trainer.callbacks.filename=last", "--trainer.callbacks.every_n_train_steps=1",
        f"--model.export={folder}/score.safetensors",
    ]  # fmt: skip
    assert main(args) == 0
    return folder / "last.ckpt", args


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_checkpoint_of_another_network_is_one_line(interrupted_run, tmp_path, capsys):
    checkpoint, args = interrupted_run
    places = [f"--model.export={tmp_path}/score.safetensors", f"--trainer.callbacks.dirpath={tmp_path}",
              f"--trainer.logger.save_dir={tmp_path}", f"--trainer.default_root_dir={tmp_path}"]  # fmt: skip
    assert main([*args, *places, "--model.score_model.ngf=4", f"--ckpt_path={checkpoint}"]) == 1
    error = capsys.readouterr().err
    assert "does not fit this configuration" in error and "config.yaml" in error
    assert sum("error:" in line for line in error.splitlines()) == 1 and error.count("size mismatch") == 1


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_damaged_or_missing_checkpoint_is_one_line(interrupted_run, tmp_path, capsys):
    checkpoint, args = interrupted_run
    whole = checkpoint.read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("text", b"hello")):
        (tmp_path / name).write_bytes(content)
        assert main([*args, f"--ckpt_path={tmp_path / name}"]) == 1
        error = capsys.readouterr().err
        assert f"{tmp_path / name} ({len(content)} bytes) is not a whole Lightning checkpoint" in error
    assert main([*args, f"--ckpt_path={tmp_path / 'none'}"]) == 1
    assert "no checkpoint at" in capsys.readouterr().err


def test_sigmas_prints_yaml_that_a_configuration_takes(repository_root, capsys):
    import yaml

    assert main(["sigmas", "--data", str(repository_root / "configs/data/digits.yaml"), "--sigma_min", "0.02"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)["sigmas"]
    assert printed["sigma_min"] == 0.02 and 4.5 < printed["sigma_max"] < 5 and printed["count"] > 10


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "which data?"),
        (["--data", "Digits", "--images", "1"], "needs two images"),
        (["--data", "Digits", "--images", "9999"], "cannot take 9999"),
        (["--data", "Digits", "--sigma_min", "7"], "sigma_min < diameter"),
        (["--data", "Digits", "--sigma_min", "-1"], "--sigma_min must be above 0; got -1"),
    ],
)
def test_sigmas_names_what_is_wrong(args, message, capsys):
    assert main(["sigmas", *args]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork"])
def test_processes_that_are_copies_are_refused(strategy, tmp_path, capsys):
    message = error_of(
        capsys, *ROBUST, "--model.classifier.checkpoint=null", f"--trainer.strategy={strategy}",
        "--trainer.devices=2", "--trainer.accelerator=cpu", f"--model.output={tmp_path}",
    )  # fmt: skip
    assert f"trainer.strategy '{strategy}'" in message and "use `--trainer.strategy ddp`" in message
