"""What functions and classes take, read from their source, so that nothing has to be imported to know it.

parameters("PGD")            its fields and those of its bases, each with its annotation as text
parameters("torch.optim.SGD")        None: nothing is known of it
"""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = [
    "Parameters",
    "class_names",
    "definitions",
    "function",
    "parameters",
    "trainer_parameters",
    "trainer_source",
    "verbs_of",
]

Parameters = dict[str, str]  # name: annotation

PACKAGE = Path(__file__).parents[1]
WITHOUT = ("ABC", "Dataset", "Module", "LightningModule", "LightningDataModule")  # bases that add no parameters


@cache
def definitions() -> dict[str, Path]:
    """The public classes and functions of this package whose names are there once, and the file of each."""
    places: dict[str, set[Path]] = {}
    for file in PACKAGE.rglob("*.py"):
        for name in re.findall(r"^(?:class|def) ([A-Za-z]\w*)", file.read_text(encoding="utf-8"), re.MULTILINE):
            places.setdefault(name, set()).add(file)
    return {name: files.pop() for name, files in places.items() if len(files) == 1}


@cache
def class_names() -> tuple[str, ...]:
    """The classes that a configuration may name without their module: those in the `__all__` of a folder."""
    names = []
    for file in PACKAGE.glob("*/__init__.py"):
        for node in parsed(file).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                names += ast.literal_eval(node.value)
    return tuple(name for name in names if name[0].isupper() and name in definitions())


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def parameters(name: str) -> Parameters | None:
    """The parameters of a class of this package, or of a function; None if nothing certain can be said.

    Args:
        name: Its name, with the path of its module, or, of a class, alone.
    """
    path, _, short = name.rpartition(".")
    if (path and not path.startswith(PACKAGE.name)) or short not in definitions():
        return None
    nodes = parsed(definitions()[short]).body
    node = next(node for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == short)
    if isinstance(node, ast.FunctionDef):
        return of_function(node) if path and not (node.args.kwarg or node.args.vararg) else None
    inherited: Parameters | None = {}
    for base in node.bases:
        known = {} if ast.unparse(base).split(".")[-1] in WITHOUT else parameters(ast.unparse(base).split("[")[0])
        inherited = None if known is None or inherited is None else known | inherited
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            own = of_function(item)
            if item.args.kwarg is None:
                return own
            return inherited | own if inherited is not None and passes_on(item, item.args.kwarg.arg) else None
    if inherited is None or not any("dataclass" in ast.unparse(one) for one in node.decorator_list):
        return inherited
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and is_given(item)]
    return inherited | {ast.unparse(item.target): ast.unparse(item.annotation) for item in fields}


def passes_on(init: ast.FunctionDef, name: str) -> bool:
    """Whether an `__init__` hands its `**name` to that of its base."""
    calls = [node for node in ast.walk(init) if isinstance(node, ast.Call)]
    up = [call for call in calls if ast.unparse(call.func) == "super().__init__"]
    return any(one.arg is None and ast.unparse(one.value) == name for call in up for one in call.keywords)


def is_given(field: ast.AnnAssign) -> bool:
    """Whether a field of a dataclass is a parameter."""
    return "ClassVar" not in ast.unparse(field.annotation) and "init=False" not in ast.unparse(field.value or field)


def of_function(node: ast.FunctionDef) -> Parameters:
    """The parameters of a function, without `self`, `*options` and `**kwargs`."""
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    every = [one for one in every if one.arg != "self"]
    return {one.arg: "" if one.annotation is None else ast.unparse(one.annotation) for one in every}


@cache
def trainer_source() -> ast.Module:
    """The module of Lightning's trainer; an empty one if it is not where it used to be."""
    place = find_spec("pytorch_lightning")
    for folder in (place.submodule_search_locations or []) if place else []:
        file = Path(folder) / "trainer/trainer.py"
        if file.is_file():
            return parsed(file)
    return ast.Module([], [])


def trainer_parameters() -> Parameters:
    """Those of Lightning's trainer; none if its source is unknown."""
    inits = [node for node in ast.walk(trainer_source()) if isinstance(node, ast.FunctionDef)]
    return next((of_function(node) for node in inits if node.name == "__init__"), {})


def verbs_of(module: str, name: str) -> dict[str, str] | None:
    """The words that may follow a verb, and the functions that they mean; None if none may.

    Args:
        module: Of the verb, within `lit_pursamere.cli`.
        name: The verb.
    """
    for node in parsed(PACKAGE / f"cli/{module}.py").body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name and isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {str(ast.literal_eval(key)): ast.unparse(value) for key, value in pairs if key is not None}
    return None


def function(module: str, name: str) -> tuple[Parameters, bool]:
    """The parameters of a verb's function, and whether it takes further options."""
    nodes = parsed(PACKAGE / f"cli/{module}.py").body
    node = next(node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name)
    return of_function(node), node.args.vararg is not None
