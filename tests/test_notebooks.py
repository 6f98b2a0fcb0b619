"""Notebooks run in an empty folder, print what is stored in them, and say in their prose what they print."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
FIXED = re.compile(r"\*\*([^*]*\d[^*]*)\*\*")  # numbers that prose repeats from outputs stand in bold
SAME = 0.08  # of the largest number of an output, such as n: what rounding on another machine may make of an attack


def cells(notebook, kind):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def code(notebook):
    """The Python of each cell, without what IPython alone knows; what is written into a file is Python, too."""
    lines = (source(cell).splitlines() for cell in cells(notebook, "code"))
    return ["\n".join(line for line in part if not line.startswith(("%", "!"))) for part in lines]


def text_of(output):
    """What an output says: a stream, or the plain text of a value; a table as its cells and notes, but for seconds."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return ""
    table = "".join(data.get("text/html", ""))
    if "<th>s/image</th></tr>" in table:
        table = re.sub(r"<td>[^<]*</td></tr>", "", table)
    table = re.sub(r"<[^>]+>", "\n", table)
    return table or "".join(data["text/plain"])


def printed(notebook):
    """What each cell printed."""
    return ["\n".join(map(text_of, cell["outputs"])) for cell in cells(notebook, "code")]


def load(file):
    return json.loads(file.read_text(encoding="utf-8"))


def unlike(stored, fresh):
    """Whether a text differs from another one in more than how its numbers round."""
    if NUMBER.sub("#", stored) != NUMBER.sub("#", fresh):
        return True
    there, here = (list(map(float, NUMBER.findall(text))) for text in (stored, fresh))
    return any(abs(a - b) > SAME * max(there) for a, b in zip(there, here, strict=True))


def test_there_are_notebooks():
    assert len(FILES) >= 3


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_cells_parse_and_import_only_what_is_documented(file):
    documented = {"lit_pursamere", *re.findall(r"^::: (\S+)", (ROOT / "docs/api.md").read_text(), flags=re.MULTILINE)}
    for node in (node for part in code(load(file)) for node in ast.walk(ast.parse(part))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("lit_pursamere") for alias in node.names), ast.unparse(node)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("lit_pursamere"):
            assert node.module in documented
            assert {alias.name for alias in node.names} <= {*importlib.import_module(node.module).__all__}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_stored_as_it_ran_and_small(file):
    notebook, text = load(file), file.read_text(encoding="utf-8")
    counts = [cell["execution_count"] for cell in cells(notebook, "code")]
    assert counts == [*range(1, len(counts) + 1)]
    assert {*notebook["metadata"]} == {"kernelspec", "language_info"}
    assert not any(cell["metadata"] for cell in notebook["cells"])
    assert not any(output.get("name") == "stderr" for cell in cells(notebook, "code") for output in cell["outputs"])
    assert not re.search(r'"/(home|root|tmp|work|usr)/|/tmp/', text)
    assert len(text) < 400_000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_its_prose_says_what_it_printed(file):
    notebook = load(file)
    said = [number for cell in cells(notebook, "markdown") for bold in FIXED.findall(source(cell))
            for number in NUMBER.findall(bold)]  # fmt: skip
    found = {number for text in printed(notebook) for number in NUMBER.findall(text)}
    assert said and {*said} <= found


def test_what_counts_as_another_output():
    assert not unlike("40 of 100 fall", "44 of 100 fall")
    assert unlike("40 of 100 fall", "60 of 100 fall") and unlike("40 of 100 fall", "40 of 100 stand")
    assert (
        text_of({"data": {"text/html": "<th>n</th><th>s/image</th></tr><td>8</td><td>0.1</td></tr>"}}).split()[-1]
        == "8"
    )


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_runs_in_an_empty_folder_and_prints_the_same(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    spec = importlib.util.spec_from_file_location("execute", ROOT / "docs/execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    pairs = list(zip(printed(load(file)), printed(execute.executed(file, tmp_path)), strict=True))
    assert [pair for pair in pairs if unlike(*pair)] == []
