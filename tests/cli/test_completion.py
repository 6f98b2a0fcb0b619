"""What shells complete: verbs, options, names; asked of the function, of the command, and of real shells."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_pursamere.cli.completion import SCRIPTS, words_of
from lit_pursamere.cli.main import main
from lit_pursamere.cli.parsing import option
from lit_pursamere.cli.suggesting import of_configuration, suggestions
from lit_pursamere.cli.usage import LIGHTNING_VERBS, VERBS
from lit_pursamere.weights.registry import entries

FOUND = [
    ("re", {"report", "reverify"}),
    ("weights ", {"list", "get", "inspect", "convert", "--help"}),
    ("weights get digits/n", {"digits/ncsnv2"}),
    ("test --config digits/r", {"digits/robustness"}),
    ("test --config=digits/r", {"--config=digits/robustness"}),
    ("fit --config digits/ro", set()),  # a configuration of a test
    ("test --model.pur", {"--model.purifier"}),
    ("test --model.purifier pursamere_d", {"pursamere_digits", "pursamere_digits_light"}),
    (
        "test --model.purifier=pursamere_d",
        {f"--model.purifier=pursamere_{name}" for name in ("digits", "digits_light")},
    ),
    ("test --model.purifier pursamere --model.purifier.rho", {"--model.purifier.rho_pur", "--model.purifier.rho_sam"}),
    ("test --config digits/robustness --model.purifier.rho_p", {"--model.purifier.rho_pur"}),
    ("test --config nowhere --model.purifier.rho", set()),
    ("test --model.threat.", {"--model.threat.norm", "--model.threat.eps"}),
    ("test --model.attacks.exact pgd20_ex", {"pgd20_exact"}),
    ("test --model.attacks.a pgd20_exact --model.attacks.a.steps", {"--model.attacks.a.steps"}),
    ("test --data folder --data.ro", {"--data.root"}),
    ("test --data.evaluate ", {"test", "val", "train"}),
    ("test --trainer.max_e", {"--trainer.max_epochs"}),
    ("test --help ", {"all"}),
    ("predict --model ", {"LitPurification"}),
    ("audit --audit.ch", {"--audit.checks"}),
    ("purify in out --purifier.", {"--purifier.score_model", "--purifier.seed"}),
    ("purify in out --purifier adp --co", {"--config", "--convert"}),
    ("compare compare/digits_kn", {"compare/digits_known_noise"}),
    ("experiment mnist/", {"mnist/denoiser", "mnist/malade_table2", "mnist/malade_table2_short"}),
    ("figure c", {"coup-toy", "coup-distance"}),
    ("report run --format h", {"html"}),
    ("report run --mix --fig", {"--figures"}),
    ("evaluate mynet:Net mine.pt --attacks st", {"strong"}),
    ("completion ", {"bash", "zsh", "fish"}),
    ("report ", set()),  # a folder, which the shell completes
    ("report --mix ", set()),
    ("purfy ", set()),
]


@pytest.mark.parametrize(("line", "expected"), FOUND)
def test_what_may_follow(line, expected):
    words = words_of(line)
    assert set(suggestions(words[:-1], words[-1])) == expected


def test_all_verbs_and_all_weights():
    assert set(suggestions([], "")) == {*VERBS, "--help", "--version"}
    assert set(suggestions(["weights", "get"], "")) == {*entries()}


@pytest.mark.parametrize("name", [name for name in VERBS if name not in (*LIGHTNING_VERBS, "weights", "purified")])
def test_the_options_of_a_verb(name):
    import inspect
    from importlib import import_module

    verb = getattr(import_module(f"lit_pursamere.cli.{VERBS[name].module}"), name)
    signature = inspect.signature(verb, eval_str=True).parameters.values()
    own = {option(one) for one in signature if one.default is not one.empty}
    assert own <= set(suggestions([name], "--"))


@pytest.mark.parametrize(("line", "words"), [
    ("a b", ["a", "b"]), ("a b ", ["a", "b", ""]), ("a 'b c", ["a", "b c"]), ("a 'b c' ", ["a", "b c", ""]),
    ('a "b', ["a", "b"]), ("", [""]),
])  # fmt: skip
def test_a_line_that_is_being_typed(line, words):
    assert words_of(line) == words


def test_what_is_asked_wrongly_is_refused(capsys):
    for words in ([], ["tcsh"], ["bash", "a", "b"]):
        assert main(["completion", *words]) == 1
        assert "completion needs one of bash, zsh, fish; got " in capsys.readouterr().err
    assert main(["completion", "bash", ""]) == 0


def test_bash_gets_what_stands_behind_its_breaks(capsys):
    assert main(["completion", "bash", "lit-pursamere test --config=digits/r"]) == 0
    assert capsys.readouterr().out == "digits/robustness\n"
    assert main(["completion", "zsh", "lit-pursamere test --config=digits/r"]) == 0
    assert capsys.readouterr().out == "--config=digits/robustness\n"


def test_nothing_heavy_is_imported():
    code = (
        "import sys; from lit_pursamere.cli.main import main; "
        "main(['completion', 'bash', 'lit-pursamere test --config digits/robustness --model.purifier.r']); "
        "print(sorted({'torch', 'jsonargparse', 'pytorch_lightning', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]" and "--model.purifier.rho_pur" in done.stdout


# --- real shells; `lit-pursamere` is this package under the interpreter of the tests

LINES = {
    "lit-pursamere rev": ["reverify"],
    "lit-pursamere test --config=digits/r": ["digits/robustness"],
    "lit-pursamere test --model.purifier pursamere_d": ["pursamere_digits", "pursamere_digits_light"],
    "lit-pursamere report no": [],
}
TRY_BASH = """
eval "$(lit-pursamere completion bash)"
complete -p lit-pursamere >/dev/null || exit 1
for line in "$@"; do
    COMP_LINE=$line COMP_POINT=${#line} COMPREPLY=()
    _lit_pursamere lit-pursamere
    echo "$line|${COMPREPLY[*]}"
done
"""
TRY_FISH = """
lit-pursamere completion fish | source
for line in $argv
    echo "$line|"(complete -C "$line")
end
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    script = tmp_path / "bin/lit-pursamere"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m lit_pursamere "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=":")
    monkeypatch.chdir(tmp_path)


def ask(shell, *words):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    done = subprocess.run([shell, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_bash(command):
    said = ask("bash", "--norc", "-c", TRY_BASH, "bash", *LINES)
    assert said.splitlines() == [f"{line}|{' '.join(found)}" for line, found in LINES.items()]


def test_fish(command):
    said = ask("fish", "--no-config", "-c", TRY_FISH, "lit-pursamere rev", "lit-pursamere test --config=digits/r")
    assert said.splitlines() == [
        "lit-pursamere rev|reverify", "lit-pursamere test --config=digits/r|--config=digits/robustness",
    ]  # fmt: skip


@pytest.mark.parametrize("shell", SCRIPTS)
def test_the_scripts_are_of_their_shells(shell, tmp_path):
    file = Path(tmp_path / "script")
    file.write_text(SCRIPTS[shell])
    ask(shell, "-n", str(file))


def test_options_of_a_configuration_go_down_to_its_classes():
    assert {"--model.purifier", "--data.test_size", "--trainer.devices", "--ckpt_path"} <= of_configuration(
        "test"
    ).keys()
    assert {"--model.lr", "--model.export", "--data.purified"} <= of_configuration("fit").keys()
