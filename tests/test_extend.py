"""docs/extend.md is true: its files are written as they stand there, and its commands run, in their order."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lit_pursamere.cli.main import main
from lit_pursamere.report.published import all_published

GUIDE = "docs/extend.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
SECTIONS = {
    "A purifier": ("runs/one_step", "runs/known"),
    "An attack": ("runs/fgsm",),
    "A data set": ("runs/bars/test",),
    "A score model": ("runs/conv/test",),
    "A row of the table": ("runs/compare/undefended", "runs/compare/OneStep", "runs/compare/OneStep (known noise)"),
}


def sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """Blocks of every section of the guide by its heading, as language and content; what precedes them as `start`."""
    parts = ["start", *re.split(r"^## (.+)\n", text, flags=re.MULTILINE)]
    return {title: BLOCK.findall(body) for title, body in zip(parts[::2], parts[1::2], strict=True)}


@pytest.fixture(scope="module")
def guide(repository_root) -> dict[str, list[tuple[str, str]]]:
    return sections((repository_root / GUIDE).read_text(encoding="utf-8"))


@pytest.fixture
def beside(tmp_path, repository_root) -> Path:
    """A folder with a clone in it, and nothing else."""
    (tmp_path / "lit_pursamere").symlink_to(repository_root)
    return tmp_path


@pytest.fixture
def isolated(monkeypatch):
    """Modules of the guide, paths and numbers are forgotten afterwards."""
    before = {*sys.modules}
    monkeypatch.setenv("LIT_PURSAMERE_PUBLISHED", "")
    all_published.cache_clear()
    yield monkeypatch
    all_published.cache_clear()
    for name in {*sys.modules} - before:
        if name.startswith("my_"):
            del sys.modules[name]


def write(content: str) -> None:
    """Write a block under the name that its first line tells; of a .csv that line is no part."""
    name = re.match(r"# (\S+)\n", content)[1]
    Path(name).write_text(content.partition("\n")[2] if name.endswith(".csv") else content, encoding="utf-8")


def follow(block: str, monkeypatch) -> None:
    """Run the lines of a bash block here, so that nothing is imported twice."""
    for line in block.splitlines():
        verb, *args = shlex.split(line)
        if verb == "export":
            name, _, value = args[0].partition("=")
            monkeypatch.setenv(name, value)
            all_published.cache_clear()
        elif verb == "lit-pursamere":
            assert main(args) == 0, line
        else:
            shell = subprocess.run(["bash", "-ec", f"{line}\npwd"], capture_output=True, text=True, check=True)
            monkeypatch.chdir(shell.stdout.splitlines()[-1])


def test_every_section_is_under_test(guide):
    assert {*guide} - {"start"} == {*SECTIONS}
    assert all({kind for kind, _ in blocks} >= {"bash", "yaml"} for title, blocks in guide.items() if title in SECTIONS)


@pytest.mark.slow
def test_the_steps_can_be_followed(guide, beside, isolated, capsys):
    isolated.chdir(beside)
    for blocks in guide.values():
        for kind, content in blocks:
            if kind == "bash":
                follow(content, isolated)
                isolated.syspath_prepend(str(Path.cwd()))
            else:
                write(content)
    assert Path.cwd() == beside / "mine"
    for title, folders in SECTIONS.items():
        for folder in folders:
            table = Path(folder, "report.md").read_text(encoding="utf-8")
            assert "worst case" in table, (title, folder)
    told = capsys.readouterr().out
    assert "[1] OneStep (known noise): 97.5 clean, 41 under BPDA20-det (Doe 2026" in told.replace("[2]", "[1]")
    assert "41 (Doe 2026, Table 1, WRN-10-2)" in told  # the report of a run with all that the source states


@pytest.mark.slow
def test_a_shell_can_follow_them(guide, beside, repository_root):
    """The steps to the first table, by the installed command in a shell of its own."""
    blocks = [*guide["start"], *guide["A purifier"]]
    script = "\n".join(
        content if kind == "bash" else "cat > {} <<'END'\n{}END".format(re.match(r"# (\S+)\n", content)[1], content)
        for kind, content in blocks
    )
    command = f"{shlex.quote(sys.executable)} -m lit_pursamere"
    script = f'lit-pursamere() {{ PYTHONPATH="$PYTHONPATH:{repository_root}" {command} "$@"; }}\n{script}'
    shell = subprocess.run(
        ["bash", "-ec", script], cwd=beside, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    )
    assert shell.returncode == 0, shell.stderr
    assert shell.stdout.count("| OneStep") == 2 * 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "room", "tests"),
    [
        ("A purifier", "purifiers", ("laws", "settings")),
        ("An attack", "attacks", ("laws", "settings")),
    ],
)
def test_the_laws_pick_up_what_becomes_part_of_the_package(guide, repository_root, tmp_path, section, room, tests):
    (source,) = (content for kind, content in guide[section] if kind == "python")
    (name,) = re.findall(r"^class (\w+)", source, flags=re.MULTILINE)
    for folder in ("lit_pursamere", "tests", "configs"):
        shutil.copytree(repository_root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository_root / "pyproject.toml", tmp_path)
    package = tmp_path / "lit_pursamere" / room
    (package / "mine.py").write_text(source, encoding="utf-8")
    init = (package / "__init__.py").read_text(encoding="utf-8")
    init = init.replace("__all__ = [", f'from lit_pursamere.{room}.mine import {name}\n\n__all__ = [\n    "{name}",')
    (package / "__init__.py").write_text(init, encoding="utf-8")
    files = [f"tests/{room}/test_{test}.py" for test in tests]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, "-k", name],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) >= 12
