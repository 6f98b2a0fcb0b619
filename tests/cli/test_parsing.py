"""A function's signature is its parser, its docstring its help; help of the whole is quick."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Literal

import pytest

from lit_pursamere.cli.parsing import read_part, run_verb
from lit_pursamere.cli.usage import VERBS
from lit_pursamere.purifiers import Identity, Purifier

CALLS = []


def shout(
    words: list[str], *options: str, loud: int = 1, tone: Literal["high", "low"] = "low", long_echo: bool = False,
    only: list[str] | None = None, path: Path | None = None,
) -> None:  # fmt: skip
    """Say something.

    Loudly, at 100 %.

    Args:
        words: What to say.
        loud: How loud.
        tone: In which tone, of 2 %.
        long_echo: Whether it comes back.
        only: These.
        path: Where.
    """
    CALLS.append((words, options, loud, tone, long_echo, only, path))


def plain(file: Path, purifier: Purifier | None = None, strict: bool = False) -> None:
    """Take a purifier.

    Args:
        purifier: Which.
    """
    CALLS.append((file, purifier, strict))


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    return CALLS


def test_words_options_switches_and_what_is_passed_on(calls):
    run_verb("shout", shout, ["a"])
    assert calls.pop() == (["a"], (), 1, "low", False, None, None)
    words = ["--model.x", "y", "a", "b", "--loud=3", "--data.z=1", "--tone", "high", "--long-echo", "--only", "c", "d",
             "--trainer.quick", "--path", "p"]  # fmt: skip
    run_verb("shout", shout, words)
    passed = ("--model.x", "y", "--data.z=1", "--trainer.quick")
    assert calls.pop() == (["a", "b"], passed, 3, "high", True, ["c", "d"], Path("p"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["f", "--stric"], "unrecognized arguments: --stric"),
        (["f", "--odd", "1"], "unrecognized arguments: --odd 1"),
        (["f", "g"], "unrecognized arguments: g"),
        ([], "the following arguments are required: file"),
        (["f", "--purifier", "Identity", "--purifier.rho", "1"], "rho"),
        (["f", "--purifier", "Nothing"], "Nothing"),
    ],
    ids=["abbreviation", "unknown", "extra", "missing", "argument", "class"],
)
def test_what_does_not_parse_ends_with_one_line_and_status_two(args, message, capsys, calls):
    with pytest.raises(SystemExit) as exit_:
        run_verb("plain", plain, args)
    usage, *_, error = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2 and not calls
    assert usage.startswith("usage: lit-pursamere plain") and error.startswith("lit-pursamere: error: ")
    assert message in error


@pytest.mark.parametrize("args", [["x", "--tone", "middle"], ["x", "--loud", "very"]])
def test_values_of_the_wrong_kind_are_named(args, capsys):
    with pytest.raises(SystemExit):
        run_verb("shout", shout, args)
    error = capsys.readouterr().err.splitlines()[-1]
    assert args[1].removeprefix("--") in error and f"Got value: {args[2]}" in error


def test_a_file_is_the_argument_that_it_is_about(tmp_path, calls):
    (tmp_path / "inner.yaml").write_text("class_path: Identity")
    (tmp_path / "alone.yaml").write_text("class_path: Identity")
    (tmp_path / "part.yaml").write_text("purifier: inner.yaml\nother: 1")
    for words in (["--config", f"{tmp_path}/alone.yaml"], [f"--config={tmp_path}/part.yaml"]):
        run_verb("plain", plain, ["f", *words])
        assert isinstance(calls.pop()[1], Identity)
    (tmp_path / "none.yaml").write_text("other: 1")
    with pytest.raises(ValueError, match=r"none\.yaml is not the file of a purifier .*, and has no `purifier`; give"):
        run_verb("plain", plain, ["f", "--config", str(tmp_path / "none.yaml")])
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.yaml"):
        run_verb("plain", plain, ["f", "--config", str(tmp_path / "nowhere.yaml")])


@pytest.mark.parametrize("words", [["--purifier.help", "PurSAMERE"], ["--purifier.help=PurSAMERE"]])
def test_a_class_of_an_argument_has_help(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        run_verb("plain", plain, words)
    assert exit_.value.code == 0 and "--purifier.rho_pur RHO_PUR" in capsys.readouterr().out and not CALLS


def test_a_part_that_is_null_says_nothing(tmp_path):
    (tmp_path / "null.yaml").write_text("model: null")
    (tmp_path / "alone.yaml").write_text("model: null\nclass_path: Identity")
    with pytest.raises(ValueError, match=r"null\.yaml is not the file of a model .*, and has no `model`; give"):
        read_part(tmp_path / "null.yaml", "model")
    assert read_part(tmp_path / "alone.yaml", "model") == {"class_path": "Identity"}


def test_the_docstring_is_the_help(capsys):
    with pytest.raises(SystemExit) as exit_:
        run_verb("shout", shout, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 0
    assert "Say something. Loudly, at 100 %." in text and "In which tone, of 2 %." in text and "What to say." in text


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_a_documented_typed_function(name):
    verb = getattr(import_module(f"lit_pursamere.cli.{VERBS[name].module}"), name.replace("-", "_"))
    for function in verb.values() if isinstance(verb, dict) else [verb]:
        assert function.__doc__
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        assert parameters and all(parameter.annotation is not parameter.empty for parameter in parameters)
        assert all(f"{parameter.name}: " in function.__doc__ for parameter in parameters if len(parameters) > 1)


def test_help_of_the_whole_imports_nothing_heavy():
    code = (
        "import sys; from lit_pursamere.cli.main import main; main(['--help']); "
        "print(sorted({'torch', 'jsonargparse', 'pytorch_lightning', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stderr.strip() == "[]" and all(f"\n  {name} " in said.stdout for name in VERBS)
