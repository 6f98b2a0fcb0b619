"""The help of every verb is one screen, begins with commands that are right, and imports nothing heavy."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from lit_pursamere.cli.arguments import about_verb, arguments, trainer_arguments
from lit_pursamere.cli.examples import EXAMPLES
from lit_pursamere.cli.helping import screen
from lit_pursamere.cli.main import main
from lit_pursamere.cli.matter import CLASSES, MATTER, SAID
from lit_pursamere.cli.parsing import composed, parser_of
from lit_pursamere.cli.signatures import trainer_parameters, verbs_of
from lit_pursamere.cli.spelling import check_words
from lit_pursamere.cli.usage import VERBS

ONE = {name: (name, []) for name in VERBS}
ONE |= {f"{name} {word}": (name, [word]) for name in VERBS for word in verbs_of(VERBS[name].module, name) or {}}
HEAVY = """
import sys
from lit_pursamere.cli.main import main
from lit_pursamere.cli.matter import CLASSES, MATTER, SAID
main(sys.argv[1:])
print(sorted({"torch", "numpy", "yaml", "jsonargparse", "pytorch_lightning"} & sys.modules.keys()), file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """As wide as a screen is, whatever the tests were started in."""
    monkeypatch.setenv("COLUMNS", "100")


def told(capsys, *args):
    assert main(list(args)) == 0
    return capsys.readouterr().out


def commands():
    for lines in EXAMPLES.values():
        for line in lines:
            words = shlex.split(line, comments=True)
            if "$(" not in line:
                yield words[words[0] == "lit-pursamere" :]


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("columns", ["200", "100"])
def test_help_is_one_screen(name, columns, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    text = told(capsys, *name.split(), "--help")
    lines = text.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100, max(lines, key=len)
    first = text.split("\n\n")[1].splitlines()
    assert first and all("lit-pursamere" in line for line in first)
    assert told(capsys, *name.split(), "-h") == text


def test_help_of_the_whole_is_one_screen(capsys):
    lines = told(capsys, "--help").splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 105


@pytest.mark.parametrize("args", [["test", "--help"], ["evaluate", "a", "b", "-h"], ["weights", "get", "--help"]])
def test_help_imports_nothing_heavy(args):
    done = subprocess.run([sys.executable, "-c", HEAVY, *args], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "lit-pursamere" in done.stdout


def test_every_verb_has_two_to_four_examples():
    assert EXAMPLES.keys() == {name for name, (verb, words) in ONE.items() if words or not verbs_of_verb(verb)}
    assert all(2 <= len(lines) <= 4 for lines in EXAMPLES.values())
    for name, lines in EXAMPLES.items():
        assert all(name in line for line in lines), name


def verbs_of_verb(verb):
    return verbs_of(VERBS[verb].module, verb)


@pytest.mark.parametrize("words", [*commands()], ids=" ".join)
def test_words_of_examples_are_known(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("model: {class_path: LitRobustness}")
    check_words(words[0], words[1:])
    module = import_module(f"lit_pursamere.cli.{VERBS[words[0]].module}")
    verb, rest = getattr(module, words[0]), words[1:]
    if isinstance(verb, dict):
        verb, rest = verb[rest[0]], rest[1:]
    signature = inspect.signature(verb, eval_str=True)
    if "options" not in signature.parameters:  # ends with status 2 if it does not parse
        parser_of(words[0], verb, signature).parse_args(composed(rest, signature))


@pytest.mark.slow
@pytest.mark.parametrize("words", [one for one in commands() if one[0] in MATTER], ids=" ".join)
def test_examples_parse(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main([*words, "--print_config"])
    assert exit_.value.code == 0, capsys.readouterr().err


def test_what_matters_is_there():
    for verb, names in MATTER.items():
        for name in names:
            owner, _, key = name.partition(".")
            assert key in (arguments(owner) if owner in CLASSES else trainer_parameters() if key else {"": 0}), name
            assert owner in CLASSES or name in SAID, name
        assert f"lit-pursamere {verb} --help all" in screen(verb, [])


def test_choices_and_defaults_are_those_of_the_source(capsys):
    from lit_pursamere.report import FORMATS

    known = about_verb("report", "report").arguments
    assert {*FORMATS} < {*known["format"].choices} and known["format"].default == "markdown"
    assert about_verb("figure", "figure").arguments["name"].choices[0] == "reconstruction-error"
    assert arguments("ImageFolder")["eval_batch_size"].default == "128"
    text = told(capsys, "test", "--help")
    assert re.search(r"--model.output +Folder of .*\(default: runs/robustness\)", text)
    assert re.search(r"--data.test_size +Images that `test` evaluates", text) and "default: None" not in text


def test_help_of_the_trainer_and_of_all(capsys):
    text = told(capsys, "fit", "--trainer.help")
    assert all(f"--trainer.{name} " in text for name in trainer_arguments()) and "max_epochs" in text
    with pytest.raises(SystemExit) as exit_:
        main(["init", "--help", "all"])
    assert exit_.value.code == 0 and "usage: lit-pursamere init" in capsys.readouterr().out


@pytest.mark.slow
def test_all_of_a_configuration_is_told(capsys):
    for words in (["--help", "all"], ["--model.help", "LitRobustness"]):
        with pytest.raises(SystemExit) as exit_:
            main(["test", *words])
        assert exit_.value.code == 0
        assert re.search(r"--(model.)?(trainer|pictures)", capsys.readouterr().out)
