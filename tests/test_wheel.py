"""What `pip install` brings works in an empty folder: configurations, small weights, and what README shows."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

SOURCES = ("lit_pursamere", "configs", "checkpoints", "setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import setuptools.build_meta as build; build.build_sdist('dist'); build.build_wheel('dist')"


@pytest.fixture(scope="module")
def built(repository_root, tmp_path_factory):
    """A folder with a wheel and an sdist, built from a copy of the sources."""
    copy = tmp_path_factory.mktemp("built")
    for name in SOURCES:
        source = repository_root / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    subprocess.run([sys.executable, "-c", BUILD], cwd=copy, check=True, capture_output=True)
    return copy / "dist"


@pytest.fixture(scope="module")
def command(built, tmp_path_factory):
    """`lit-pursamere` of the wheel in an environment of its own, which sees the libraries of this one."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (wheel,) = built.glob("*.whl")
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_paths()["purelib"])
    return environment / "bin/lit-pursamere"


def names_in(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as file:
            return set(file.namelist())
    with tarfile.open(archive) as file:
        return {name.partition("/")[2] for name in file.getnames()}


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "inside"), [("*.whl", "lit_pursamere/"), ("*.tar.gz", "")])
def test_an_archive_holds_every_source_configuration_and_small_checkpoint(built, repository_root, pattern, inside):
    (archive,) = built.glob(pattern)
    expected = {path.relative_to(repository_root).as_posix() for path in (repository_root / "lit_pursamere").rglob("*")
                if path.suffix in (".py", ".csv", ".css", ".typed")}  # fmt: skip
    for path in (
        *(repository_root / "configs").rglob("*.yaml"),
        *(repository_root / "checkpoints").rglob("*.safetens*"),
    ):
        expected.add(f"{inside}{path.relative_to(repository_root).as_posix()}")
    assert expected - names_in(archive) == set()


@pytest.mark.slow
def test_the_wheel_runs_by_name_in_an_empty_folder(command, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(program, *words):
        done = subprocess.run([program, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(command.with_name("python"), "-c", "import lit_pursamere; print(lit_pursamere.__file__)")
    assert Path(where).is_relative_to(command.parents[1])
    assert "NCSNv2" in run(command, "weights", "inspect", "checkpoints/digits/score.safetensors")


MYNET = """
import torch
from torch import nn

class SmallResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))

    def forward(self, x):
        return self.body(x)
"""
SHORTER = {  # what of a command of README takes minutes, and its short form
    "--attacks quick --n 16": "--attacks quick --n 1 --no-preflight --image_size 16",
    "digits/experiment": "short.yaml",
    "runs/digits/robustness": "runs/evaluate",
    'purifier="pursamere_digits"': 'purifier={"class_path": "PurSAMERE", "init_args": {"draws": 1, "sigmas": [0.2]}}',
    'threat="linf 0.15",': 'threat="linf 0.15", score_model="digits/ncsnv2",',
}


STAGES = {  # the stages of an experiment, and what makes them short
    "predict": "--data.train_size 60 --model.purifier.sigmas.stride 16",
    "fit": "--data.val_size 10 --trainer.max_epochs 1",
    "test": "--data.test_size 2 --model.purifier Identity --model.undefended false --model.pictures 0",
}


def shorter(text: str) -> str:
    for shown, short in SHORTER.items():
        text = text.replace(shown, short)
    return text


@pytest.fixture
def user(tmp_path, repository_root):
    """A folder of somebody who has a network, its weights and pictures, and no checkout; and a short experiment."""
    shown = yaml.safe_load((repository_root / "configs/digits/experiment.yaml").read_text(encoding="utf-8"))
    short = [f"{stage} {STAGES[stage.split()[0]]}" for stage in shown["stages"]]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"stages": short}))
    (tmp_path / "mynet.py").write_text(MYNET)
    names: dict = {}
    exec(MYNET, names)
    network = names["SmallResNet"]()
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    draw = np.random.default_rng(0)
    for split, name, number in ((s, n, k) for s in ("train", "test") for n in ("cat", "dog") for k in range(2)):
        folder = tmp_path / "photos" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path


@pytest.mark.slow
def test_what_the_readme_shows_runs_without_a_checkout(command, user, repository_root):
    text = (repository_root / "README.md").read_text(encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    shell = "".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
    commands = [line for line in shorter(shell).splitlines() if line.startswith("lit-pursamere ")]
    assert [shlex.split(line)[1] for line in commands] == ["evaluate", "init", "experiment", "report"]
    (python,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    told = [[command, *shlex.split(line, comments=True)[1:]] for line in commands]
    for words in (*told, [command.with_name("python"), "-c", shorter(python)]):
        done = subprocess.run(list(map(str, words)), cwd=user, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
    assert "| PurSAMERE  | worst case " in done.stdout
    assert (user / "runs/evaluate/report.html").is_file() and (user / "mine/experiment.yaml").is_file()
