"""README and docs tell the truth: commands parse, files exist, and Python runs, or is checked against what it calls."""

import ast
import importlib
import inspect
import re
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from lit_pursamere.cli.main import main
from lit_pursamere.cli.plan import read_plan
from lit_pursamere.cli.spelling import check_words
from lit_pursamere.cli.usage import VERBS
from lit_pursamere.configuration.composition import asks_for_help

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = [
    "README.md", "CONTRIBUTING.md", "SECURITY.md", *PAGES,
    "checkpoints/README.md", "benchmarks/README.md", "benchmarks/gpu/README.md",
]  # fmt: skip
FOLLOWED = "docs/extend.md"  # by test_extend, in the folder that it makes
SHIPPED = re.compile(r"configs/|checkpoints/\w+/\w+\.safetensors")
PARSED = "<!-- not run: "  # stands with a reason in the line above a block of Python that needs what is not here


def read(file):
    return (ROOT / file).read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def python_blocks(text):
    """Blocks of Python, and whether each runs as it stands."""
    found = re.findall(r"([^\n]*)\n```python\n(.*?)```", text, flags=re.DOTALL)
    return [(code, not before.startswith(PARSED)) for before, code in found]


def commands(text):
    """Commands on lines of their own, and those with files that are quoted in a sentence."""
    lines = [line.strip() for line in text.replace("\\\n", "").splitlines()]
    quoted = re.findall(r"`(lit-pursamere [^`]*configs/[^`]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line for line in [*lines, *quoted] if line.startswith("lit-pur")]


def files_there(command):
    """Whether the files that a command names, of those that are shipped, are there."""
    names = [name for word in shlex.split(command, comments=True) for name in word.split("=")]
    return all(Path(name).exists() for name in names if SHIPPED.match(name))


def of_a_run(args):
    """Whether a command reads the configuration of a run that somebody would have made."""
    return any(word == "--config" and name.startswith("runs/") for word, name in pairwise(args))


@pytest.mark.parametrize("file", [file for file in DOCUMENTS if file != FOLLOWED])
def test_words_of_commands_are_known(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    for command in commands(read(file)):
        verb, *args = shlex.split(command, comments=True)[1:]
        if of_a_run(args):
            continue
        assert verb in VERBS and files_there(command), command
        check_words(verb, args)


def test_every_verb_is_shown():
    shown = {shlex.split(command, comments=True)[1] for file in PAGES for command in commands(read(file))}
    assert {*VERBS} <= shown


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in DOCUMENTS if file != FOLLOWED])
def test_commands_parse(file, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for command in commands(read(file)):
        verb, *args = shlex.split(command, comments=True)[1:]
        if verb in ("fit", "test", "predict", "audit", "estimate") and not asks_for_help(args) and not of_a_run(args):
            with pytest.raises(SystemExit) as exit_:
                main([verb, *args, *([] if "--print_config" in args else ["--print_config"])])
            assert exit_.value.code == 0, (command, capsys.readouterr().err)


@pytest.mark.parametrize("file", DOCUMENTS)
def test_shell_and_yaml_are_well_formed(file):
    text = read(file)
    shell = subprocess.run(["bash", "-n"], input="\n".join(blocks(text, "bash")), capture_output=True, text=True)
    assert shell.returncode == 0, shell.stderr
    for block in blocks(text, "yaml"):
        assert yaml.safe_load(block), block


def test_make_targets_exist():
    makefile = read("Makefile")
    for file in DOCUMENTS:
        lines = [line for block in blocks(read(file), "bash") for line in block.splitlines()]
        quoted = re.findall(r"`make (\w+)", read(file))
        for target in [*quoted, *(line.split()[1] for line in lines if line.startswith("make "))]:
            assert f"\n{target}:" in makefile, (file, target)


def test_the_five_settings_are_those_of_a_test(monkeypatch, tmp_path, capsys):
    _, configuration = blocks(read("docs/commands.md"), "yaml")
    for folder in (ROOT / "configs").iterdir():
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


def test_the_sweep_is_one(tmp_path):
    comparison, _ = blocks(read("docs/commands.md"), "yaml")
    for folder in (ROOT / "configs").iterdir():
        (tmp_path / folder.name).symlink_to(folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/compare.yaml").write_text(comparison, encoding="utf-8")
    rows = read_plan(tmp_path / "mine/compare.yaml").purifiers
    assert len(rows) == 2 * 3 * 2 + 1 and {"COUP unguided t_star=0.2 attack=long", "DP_DDPM"} <= {*rows}


@pytest.mark.parametrize("file", DOCUMENTS)
def test_links_lead_somewhere(file):
    place = ROOT / file
    for name, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", read(file)):
        target = place.parent / name if name else place
        assert target.exists(), f"{name} is linked in {file} but does not exist"
        if anchor:
            assert anchor in headings(target), f"{name}#{anchor} is linked in {file} but there is no such heading"


def headings(place):
    """Anchors of a page: its headings in small letters, without punctuation, with dashes for spaces."""
    text = re.sub(r"```.*?```", "", place.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_rooms_exist_and_are_all_told():
    rooms = re.findall(r"^\| `([^`]+)` \|", read("docs/architecture.md"), flags=re.MULTILINE)
    assert all((ROOT / name).exists() for name in rooms), [name for name in rooms if not (ROOT / name).exists()]
    package = {f"lit_pursamere/{path.parent.name}/" for path in (ROOT / "lit_pursamere").glob("*/__init__.py")}
    told = "".join(rooms)
    assert [room for room in sorted(package) if room not in told] == []


def test_the_readme_fits_on_a_few_screens():
    assert len(read("README.md").splitlines()) <= 150


# Smaller walks than those that are shown, once each: levels of noise are walked elsewhere.
SMALLER = {'purifier="pursamere_digits"': "purifier=None", "stride=3": "stride=16"}


LONG = "docs/evaluate.md"  # attacks and purifies
OWN_ENVIRONMENT = "README.md"  # runs in test_wheel


@pytest.mark.parametrize(
    "file",
    [pytest.param(file, marks=pytest.mark.slow) if file == LONG else file for file in DOCUMENTS if file != FOLLOWED],
)
def test_python_runs(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {"__name__": "documented"}
    for code, runs in python_blocks(read(file)):
        for shown, smaller in SMALLER.items():
            code = code.replace(shown, smaller)
        if runs and file != OWN_ENVIRONMENT:
            exec(compile(code, file, "exec"), names)
        else:
            check_calls(code)
    if file == LONG:
        assert names["purified"].shape == (4, 1, 8, 8) and len(names["right"]) == 4


def check_calls(code):
    """Names that come from this package are there, and are called with arguments that they take."""
    tree, known = ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("lit_pursamere"):
            module = importlib.import_module(node.module)
            known |= {alias.asname or alias.name: getattr(module, alias.name) for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = eval_name(node.func, known)
            if called is not None:
                given = {word.arg: None for word in node.keywords if word.arg}
                inspect.signature(called).bind_partial(*node.args, **given)


def eval_name(node, known):
    """What a name, or an attribute of one, stands for; None where it is not of this package."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = eval_name(node.value, known)
        return None if owner is None else getattr(owner, node.attr)
    return None


def test_a_wrong_call_is_found():
    with pytest.raises(TypeError, match="treat"):
        check_calls("from lit_pursamere import evaluate\nevaluate(model, (x, y), treat='linf 8/255')\n")


def test_a_new_purifier_purifies():
    names = {}
    (code,) = [code for code, _ in python_blocks(read("docs/purifiers.md"))]
    exec(code, names)
    import torch

    from lit_pursamere.diffusion import NCSNv2Score

    x = torch.rand(2, 1, 8, 8)
    out = names["Denoise"](NCSNv2Score(ngf=16, channels=1, image_size=8))(x)
    assert out.shape == x.shape and out.min() >= 0 and out.max() <= 1
