"""The list of every table, figure and claim in docs/papers.md is whole, and what it says can be looked up."""

from __future__ import annotations

import ast
import re
import shlex
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.cli.spelling import check_words
from lit_pursamere.cli.usage import VERBS
from lit_pursamere.worlds.figures import FIGURES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/papers.md"
LIST = "## Every table, figure and claim"
PAPERS = {"PurSAMERE": 29, "Summary of PurSAMERE": 7, "COUP": 36, "ADDT": 68, "MALADE": 45}
STATES = {
    "run": r"run \d{4}-\d\d-\d\d, n = [\d,]+( [\w ]+)?",
    "test": "test",
    "numbers only": "numbers only",
    "concept drawing": "concept drawing",
    "not run": "not run, costs .+",
    "missing": "missing: .+",
}
PLACE = re.compile(r"(tests|configs|docs|benchmarks|checkpoints|lit_pursamere)/[\w./-]+")


class Item(NamedTuple):
    """A row of the list."""

    paper: str
    number: str
    item: str
    how: str
    state: str
    here: str
    published: str

    @property
    def kind(self) -> str:
        """Which of STATES its state is; empty if none."""
        return next((kind for kind, pattern in STATES.items() if re.fullmatch(pattern, self.state)), "")

    @property
    def quoted(self) -> list[str]:
        """What stands between backticks."""
        return re.findall(r"`([^`]+)`", " ".join((self.how, self.state, self.here)))

    @property
    def links(self) -> list[str]:
        """Names in brackets that say where a number is."""
        return re.findall(r"\[([a-z0-9]+)\]", self.here)


def read() -> str:
    return PAGE.read_text(encoding="utf-8").partition(LIST)[2]


def items() -> list[Item]:
    found, paper = [], ""
    for line in read().splitlines():
        paper = line[4:].partition(" (")[0] if line.startswith("### ") else paper
        if re.match(r"\| \d+ \|", line):
            found.append(Item(paper, *(cell.strip() for cell in line.strip("|").split("|"))))
    return found


ITEMS = items()
COMMANDS = sorted({word for item in ITEMS for word in item.quoted if word.startswith("lit-pursamere ")})


@cache
def section(name: str) -> str:
    """The text that a link leads to, up to the next heading of its rank."""
    file, anchor = re.search(rf"^\[{name}\]: (\S+)#(\S+)$", read(), re.MULTILINE).groups()
    text = (PAGE.parent / file).read_text(encoding="utf-8")
    for heading in re.finditer(r"^(#+) (.+)$", text, re.MULTILINE):
        if re.sub(r"[^\w\- ]", "", heading[2].lower()).replace(" ", "-") == anchor:
            end = re.search(rf"^#{{1,{len(heading[1])}}} ", text[heading.end() :], re.MULTILINE)
            return text[heading.end() : heading.end() + end.start() if end else None]
    raise AssertionError(f"no heading {file}#{anchor}")


def test_no_item_is_missing():
    assert Counter(item.paper for item in ITEMS) == PAPERS
    for paper in PAPERS:
        numbers = [int(item.number) for item in ITEMS if item.paper == paper]
        assert numbers == list(range(1, len(numbers) + 1))


def test_states_are_those_that_there_are_and_the_summary_counts_them():
    assert [item for item in ITEMS if not item.kind] == []
    told = dict(re.findall(r"^\| ([\w ]+) \| (\d+) \|", read(), re.MULTILINE))
    assert {kind: int(told[kind]) for kind in STATES} == Counter({kind: 0 for kind in STATES}) + Counter(
        item.kind for item in ITEMS
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_words_of_commands_are_known(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    verb, *args = shlex.split(command)[1:]
    assert verb in VERBS
    check_words(verb, args)


def test_files_and_tests_that_are_named_exist():
    for item in ITEMS:
        for place in item.quoted:
            file, _, test = place.partition("::")
            if PLACE.fullmatch(file):
                assert (ROOT / file).is_file(), (item.paper, item.number, file)
                assert not test or test in functions(ROOT / file), (item.paper, item.number, place)


@cache
def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_what_counts_as_shown_can_be_looked_up():
    """A test is named; date, n and every number with a decimal point stand where the link leads."""
    for item in ITEMS:
        where = (item.paper, item.number)
        if item.kind == "test":
            assert any(place.startswith("tests/") for place in item.quoted), where
        if item.kind == "run":
            date, n = re.search(r"(\S+), n = ([\d,]+)", item.state).groups()
            (name,) = item.links
            assert {date, n} <= {*re.findall(r"\d{4}-\d\d-\d\d|\d[\d,]*\d|\d", section(name))}, where
            numbers = re.findall(r"\d+\.\d+", item.here.partition("linf 0.15")[2] or item.here)
            assert all(number in section(name) for number in numbers), where
        assert all(section(name) for name in item.links), where


def test_every_figure_of_the_theory_is_in_the_list():
    shown = {shlex.split(command)[2] for command in COMMANDS if command.startswith("lit-pursamere figure ")}
    assert shown == {*FIGURES}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    verb, *args = shlex.split(command)[1:]
    if verb in ("fit", "test", "predict", "audit"):
        with pytest.raises(SystemExit) as exit_:
            main([verb, *args, "--print_config"])
        assert exit_.value.code == 0, capsys.readouterr().err
