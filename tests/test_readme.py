"""The README tells the truth: its commands parse, its files exist and its Python runs."""

import re
import shlex

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.cli.usage import VERBS


@pytest.fixture(scope="module")
def readme(repository_root):
    return (repository_root / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_commands_parse(readme, repository_root, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(repository_root)
    lines = [line for block in blocks(readme, "bash") for line in block.replace("\\\n", "").splitlines()]
    commands = [line for line in lines if line.startswith("lit-pur")]
    verbs = set()
    for command in commands:
        verb, *args = shlex.split(command, comments=True)[1:]
        verbs.add(verb)
        if verb in ("fit", "test", "predict", "audit", "estimate") and "--help" not in args:
            with pytest.raises(SystemExit) as exit_:
                main([verb, *args, *([] if "--print_config" in args else ["--print_config"])])
            assert exit_.value.code == 0, (command, capsys.readouterr().err)
    assert verbs == {*VERBS} - {"validate"}


def test_make_targets_exist(readme, repository_root):
    makefile = (repository_root / "Makefile").read_text()
    lines = [line for block in blocks(readme, "bash") for line in block.splitlines()]
    targets = [line.split()[1] for line in lines if line.startswith("make")]
    assert targets == ["quickstart", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_files_and_folders_exist(readme, repository_root):
    linked = re.findall(r"\]\(([^)#:]+)\)", readme)
    rooms = re.findall(r"^\| `([^`]+)` \|", readme, flags=re.MULTILINE)
    assert len(linked) >= 3
    assert len(rooms) >= 10
    for name in [*linked, *rooms]:
        assert (repository_root / name).exists(), f"{name} is named in the README but does not exist"


def test_python_runs(readme, repository_root, monkeypatch):
    monkeypatch.chdir(repository_root)
    usage, new_purifier = blocks(readme, "python")
    names: dict = {"__name__": "readme"}
    exec(usage, names)
    assert names["purified"].shape == (4, 1, 8, 8)
    exec(new_purifier, names)
    x = names["torch"].rand(2, 1, 8, 8)
    out = names["Denoise"](names["score"])(x)
    assert out.shape == x.shape
    assert out.min() >= 0 and out.max() <= 1
