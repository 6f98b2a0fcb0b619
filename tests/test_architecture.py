"""How the package is built: its folders know each other in one direction, and nothing in it is patched."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lit_pursamere

ROOT = Path(lit_pursamere.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
KNOW_LIGHTNING = {"data", "tasks", "estimate", "front", "cli"}
FOREIGN = ("library",)  # an attack of pyautoattack, which takes its loss in no other way


def imported(tree: ast.Module) -> set[str]:
    """Dotted names of all that is imported anywhere in a file, under TYPE_CHECKING and within functions, too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"a relative import: {ast.unparse(node)}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def folders(names: set[str]) -> set[str]:
    """The folders, or modules beside them, of the package from which these names come."""
    return {parts[1] for parts in (name.split(".") for name in names) if parts[0] == "lit_pursamere" and parts[1:]}


def graph(trees: dict[str, list[ast.Module]]) -> dict[str, set[str]]:
    """What each folder imports from others."""
    return {folder: folders(set().union(*map(imported, files))) - {folder} for folder, files in trees.items()}


def patches(tree: ast.Module) -> list[str]:
    """What looks like a mock, or like a function that is put in the place of a method of an object."""
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found = sorted(name for name in imported(tree) if name.split(".")[0] in ("unittest", "mock"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            attributes = [target for target in node.targets if isinstance(target, ast.Attribute)]
            to_attribute = any(ast.unparse(target.value) not in FOREIGN for target in attributes)
            a_function = isinstance(node.value, ast.Lambda) or getattr(node.value, "id", None) in functions
            found += [ast.unparse(node)] if to_attribute and a_function else []
    return found


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def package() -> dict[str, list[ast.Module]]:
    """Every file of the package, parsed, by the folder it is in; a module beside the folders is one of its own."""
    trees: dict[str, list[ast.Module]] = {}
    for file in FILES:
        folder = file.relative_to(ROOT).parts[0].removesuffix(".py")
        trees.setdefault(folder, []).append(parsed(file))
    return trees


def test_what_counts_as_an_import():
    hidden = "if TYPE_CHECKING:\n    from lit_pursamere.b import x\ndef f():\n    import lit_pursamere.c.d"
    assert graph({"a": [ast.parse(hidden), ast.parse("from lit_pursamere import a, e")]}) == {"a": {"b", "c", "e"}}


def test_folders_import_each_other_in_no_circle(package):
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    TopologicalSorter(graph(package)).prepare()


def modules() -> dict[str, set[str]]:
    """Which modules of the package each imports, but for the front door, which imports nothing until it is asked."""
    trees = {".".join(f.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES}
    del trees["lit_pursamere"]
    found = {}
    for module, file in trees.items():
        names = imported(parsed(file))
        found[module] = {name if name in trees else name.rpartition(".")[0] for name in names} & trees.keys() - {module}
    return found


def test_modules_import_each_other_in_no_circle():
    found = modules()
    assert "lit_pursamere.configuration.linking" in found["lit_pursamere.configuration.building"]
    TopologicalSorter(found).prepare()


def test_lightning_is_known_to_tasks_and_data_and_what_runs_them(package):
    found = {folder: set().union(*map(imported, files)) for folder, files in package.items()}
    knowing = {folder for folder, names in found.items() if any(n.startswith("pytorch_lightning") for n in names)}
    assert knowing == KNOW_LIGHTNING


def test_what_counts_as_a_patch():
    patched = "import unittest.mock\nfrom unittest import mock\nx.f = lambda: 1\ndef g(): pass\n"
    assert patches(ast.parse(patched)) == ["unittest.mock", "x.f = lambda: 1"]
    assert patches(ast.parse("from mock import patch\ndef g(): pass\nx.f = g")) == ["mock.patch", "x.f = g"]
    assert patches(ast.parse("x.f = 1; f = lambda: 1; x.f = y")) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_package_patches_nothing(file):
    assert patches(parsed(file)) == []
