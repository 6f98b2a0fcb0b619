"""README and docs tell the truth: commands parse, files exist, and the README's Python runs."""

import re
import shlex
from pathlib import Path

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.cli.spelling import check_words
from lit_pursamere.cli.usage import VERBS

DOCUMENTS = (  # docs/extend.md is followed by test_extend
    "README.md", "docs/reference.md", "docs/results.md", "docs/protocols.md", "docs/performance.md", "docs/weights.md",
    "docs/own.md", "checkpoints/README.md", "benchmarks/README.md", "benchmarks/gpu/README.md",
)  # fmt: skip
SHIPPED = re.compile(r"configs/|checkpoints/\w+/\w+\.safetensors")


@pytest.fixture(scope="module")
def readme(repository_root):
    return (repository_root / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text):
    """Commands on lines of their own, and those with files that are quoted in a sentence."""
    lines = [line.strip() for line in text.replace("\\\n", "").splitlines()]
    quoted = re.findall(r"`(lit-pursamere [^`]*configs/[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line for line in [*lines, *quoted] if line.startswith("lit-pur")]


def files_there(command):
    """Whether the files that a command names, of those that are shipped, are there."""
    names = [name for word in shlex.split(command, comments=True) for name in word.split("=")]
    return all(Path(name).exists() for name in names if SHIPPED.match(name))


@pytest.mark.parametrize("file", DOCUMENTS)
def test_words_of_commands_are_known(file, repository_root, monkeypatch):
    monkeypatch.chdir(repository_root)
    verbs = set()
    for command in commands((repository_root / file).read_text(encoding="utf-8")):
        verb, *args = shlex.split(command, comments=True)[1:]
        verbs.add(verb)
        assert files_there(command), command
        check_words(verb, args)
    assert verbs == {*VERBS} - {"validate", "completion"} if file == "README.md" else verbs <= {*VERBS}


@pytest.mark.slow
@pytest.mark.parametrize("file", DOCUMENTS)
def test_commands_parse(file, repository_root, monkeypatch, capsys):
    monkeypatch.chdir(repository_root)
    for command in commands((repository_root / file).read_text(encoding="utf-8")):
        verb, *args = shlex.split(command, comments=True)[1:]
        if verb in ("fit", "test", "predict", "audit", "estimate") and "--help" not in args:
            with pytest.raises(SystemExit) as exit_:
                main([verb, *args, *([] if "--print_config" in args else ["--print_config"])])
            assert exit_.value.code == 0, (command, capsys.readouterr().err)


def test_make_targets_exist(readme, repository_root):
    makefile = (repository_root / "Makefile").read_text()
    lines = [line for block in blocks(readme, "bash") for line in block.splitlines()]
    targets = [line.split()[1] for line in lines if line.startswith("make")]
    assert targets == ["quickstart", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)


def test_the_five_settings_are_those_of_a_test(readme, repository_root, monkeypatch, tmp_path, capsys):
    (configuration,) = blocks(readme, "yaml")
    for folder in (repository_root / "configs").iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/test.yaml").write_text(configuration, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["test", "--config", "mine/test.yaml", "--print_config"])
    told = capsys.readouterr()
    assert exit_.value.code == 0, told.err
    for name in ("threat", "score_model", "purifier", "classifier", "noise"):
        assert re.search(rf"^ +{name}:", configuration, flags=re.MULTILINE) and f"    {name}:" in told.out


@pytest.mark.parametrize("file", [*DOCUMENTS, "docs/extend.md"])
def test_links_lead_somewhere(file, repository_root):
    place = repository_root / file
    for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", place.read_text(encoding="utf-8")):
        assert (place.parent / name).exists(), f"{name} is linked in {file} but does not exist"


def test_files_and_folders_exist(readme, repository_root):
    linked = re.findall(r"\]\(([^)#:]+)\)", readme)
    rooms = re.findall(r"^\| `([^`]+)` \|", readme, flags=re.MULTILINE)
    assert len(linked) >= 3
    assert len(rooms) >= 10
    for name in [*linked, *rooms]:
        assert (repository_root / name).exists(), f"{name} is named in the README but does not exist"


def test_python_runs(readme, repository_root, monkeypatch):
    monkeypatch.chdir(repository_root)
    front, usage, new_purifier = blocks(readme, "python")
    assert front.count("pursamere_digits") == 1
    exec(front.replace('"pursamere_digits"', "None"), {"__name__": "readme"})  # walks of 22 levels are tested elsewhere
    assert usage.count("stride=3") == 1
    names: dict = {"__name__": "readme"}
    exec(usage.replace("stride=3", "stride=16"), names)  # four noise levels instead of twenty-two
    assert names["purified"].shape == (4, 1, 8, 8)
    exec(new_purifier, names)
    x = names["torch"].rand(2, 1, 8, 8)
    out = names["Denoise"](names["score"])(x)
    assert out.shape == x.shape
    assert out.min() >= 0 and out.max() <= 1
