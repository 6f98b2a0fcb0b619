"""The command line: verbs, composition of configurations, and one readable line for every mistake."""

import pytest
import yaml

from lit_pursamere import __version__
from lit_pursamere.cli import main

ROBUST = ["test", "--config", "configs/digits/robustness.yaml"]


@pytest.fixture(autouse=True)
def repository(repository_root, monkeypatch):
    monkeypatch.chdir(repository_root)
    monkeypatch.delenv("LIT_PURSAMERE_TRACEBACK", raising=False)


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
    config = printed_config(capsys, *ROBUST, "--model.attacks.gPGD20.threat.eps", "8/255")
    threat = config["model"]["init_args"]["attacks"]["gPGD20"]["init_args"]["threat"]
    assert threat == {"norm": "linf", "eps": "8/255"}
    config = printed_config(capsys, *ROBUST)
    assert config["model"]["init_args"]["attacks"]["gPGD20"]["init_args"]["threat"]["eps"] == 0.15


def test_configs_compose(capsys):
    config = printed_config(
        capsys, *ROBUST, "--config", "configs/data/cifar10.yaml", "--model.purifier", "configs/purifier/pursamere.yaml",
        "--model.purifier.rho_pur", "2.5", "--model.purifier.seed", "fresh",
    )  # fmt: skip
    purifier = config["model"]["init_args"]["purifier"]["init_args"]
    assert config["data"]["class_path"] == "lit_pursamere.data.CIFAR10"
    assert (purifier["rho_pur"], purifier["rho_sam"], purifier["draws"], purifier["seed"]) == (2.5, 1.5, 4, "fresh")
    assert purifier["sigmas"]["count"] == 232
    assert config["trainer"]["inference_mode"] is False
    assert config["trainer"]["use_distributed_sampler"] is False


def test_short_class_names(capsys):
    config = printed_config(capsys, *ROBUST, "--model.purifier", "Identity")
    assert config["model"]["init_args"]["purifier"]["class_path"] == "lit_pursamere.purifiers.Identity"


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--config", "configs/nope.yaml"], "configs/nope.yaml"),
        (["--model.purifer", "x"], "Option 'purifer' is not accepted"),
        (["--model.purifier.rho_purr", "1"], "Option 'rho_purr' is not accepted"),
        (["--model.purifier.rho_pur", "wide"], "Got value: wide"),
        (["--model.purifier.rho_pur", "-1"], "rho_pur=-1.0"),
        (["--model.attacks.gPGD20.threat.eps", "8/0"], "'8/0' is neither a number nor a fraction"),
        (["--model.attacks.gPGD20.threat.norm", "l3"], "l3"),
        (["--model.checkpoint", "nope.safetensors"], "no weight file at nope.safetensors"),
        (["--model.checkpoint", "README.md"], "README.md is not a readable weight file"),
        (["--model.classifier.width", "3", "--model.checkpoint", "checkpoints/digits/classifier.safetensors"],
         "shapes differ"),
        (["--data.test_size", "400"], "test_size=400 exceeds the 397 test images"),
    ],
)  # fmt: skip
def test_mistakes_get_one_readable_line(capsys, tmp_path, args, expected):
    defaults = [
        "--model.output", str(tmp_path), "--trainer.logger", "false", "--trainer.default_root_dir", str(tmp_path),
        "--model.checkpoint", "checkpoints/digits/classifier.safetensors",
    ]  # fmt: skip
    assert expected in error_of(capsys, *ROBUST, *defaults, *args)


def test_report_without_records(capsys, tmp_path):
    assert "no records in" in error_of(capsys, "report", str(tmp_path))


def test_figure(capsys, tmp_path):
    out = tmp_path / "new/figure.png"
    assert main(["figure", "reconstruction-error", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
