"""What verbs and classes take, with defaults and descriptions, read from their source without importing it.

arguments("LitRobustness")["output"].default      'runs/robustness'
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from docstring_parser import parse

from lit_pursamere.cli.signatures import PACKAGE, Parameters, definitions, is_given, of_function, parsed, trainer_source

__all__ = ["About", "Argument", "about_verb", "arguments", "trainer_arguments"]


class Argument(NamedTuple):
    """A parameter of a verb or class.

    Args:
        kind: Its annotation as text.
        text: Its description.
        default: As in the source, strings without quotes; None where it has none.
    """

    kind: str
    text: str
    default: str | None

    @property
    def choices(self) -> list[str]:
        """The words that it may be, where its annotation lists them."""
        return re.findall(r"'([^']*)'", self.kind) if "Literal[" in self.kind else []

    @property
    def has_default(self) -> bool:
        """Whether it has one that says something to who reads it."""
        plain = self.default is not None and re.fullmatch(r"-?[\w./][\w./ -]*", self.default)
        return bool(plain) and self.default not in ("None", "False", "True") and not str(self.default).isupper()


class About(NamedTuple):
    """A verb: what it does in one sentence, what more is to say of it, and its arguments by name."""

    sentence: str
    more: str
    arguments: dict[str, Argument]


def about_verb(module: str, name: str) -> About:
    """What the function of a verb says of itself.

    Args:
        module: Within `lit_pursamere.cli`.
        name: The function.
    """
    nodes = parsed(PACKAGE / f"cli/{module}.py").body
    node = next(node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name)
    told = ast.get_docstring(node) or ""
    text = parse(told)
    known = documented(node, told)
    known = {key: one._replace(kind=spelled_out(one.kind, nodes)) for key, one in known.items()}
    return About(text.short_description or "", text.long_description or "", known)


def spelled_out(kind: str, nodes: Sequence[ast.stmt]) -> str:
    """An annotation with, in place of the names of tables, `Literal[tuple(FORMATS | MORE)]`, their keys."""
    if "Literal[tuple(" not in kind:
        return kind
    return f"Literal{[key for name in re.findall(r'[A-Z_]{2,}', kind) for key in keys_of(name, nodes)]}"


def keys_of(table: str, nodes: Sequence[ast.stmt]) -> list[str]:
    """The keys of a table that a module has, or imports from another one of this package."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and table in [alias.name for alias in node.names]:
            file = PACKAGE.joinpath(*str(node.module).split(".")[1:])
            return keys_of(table, parsed(file / "__init__.py" if file.is_dir() else file.with_suffix(".py")).body)
        if isinstance(node, ast.AnnAssign | ast.Assign) and isinstance(node.value, ast.Dict):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if ast.unparse(target) == table:
                return [ast.literal_eval(key) for key in node.value.keys if key is not None]
    return []


@cache
def arguments(name: str) -> dict[str, Argument]:
    """The arguments of a class of this package and those of its bases; none if it is not of this package."""
    short = name.split("[")[0].rpartition(".")[2]
    if short not in definitions():
        return {}
    nodes = parsed(definitions()[short]).body
    node = next((node for node in nodes if isinstance(node, ast.ClassDef) and node.name == short), None)
    if node is None:
        return {}
    found: dict[str, Argument] = {}
    for base in node.bases:
        found |= arguments(ast.unparse(base))
    told = ast.get_docstring(node) or ""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            own = documented(item, told)
            return found | own if item.args.kwarg else {**own}
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and is_given(item)]
    if any("dataclass" in ast.unparse(one) for one in node.decorator_list):
        kinds = {ast.unparse(item.target): ast.unparse(item.annotation) for item in fields}
        found |= described(kinds, {ast.unparse(item.target): item.value for item in fields}, told)
    return found


@cache
def trainer_arguments() -> dict[str, Argument]:
    """Those of Lightning's trainer; none if its source is not where it used to be."""
    for node in ast.walk(trainer_source()):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return documented(node, ast.get_docstring(node) or "")
    return {}


def documented(node: ast.FunctionDef, told: str) -> dict[str, Argument]:
    """The arguments of a function, described by this docstring."""
    placed = [*node.args.posonlyargs, *node.args.args]
    defaults: dict[str, ast.expr | None] = {}
    for one, value in zip(placed[::-1], node.args.defaults[::-1], strict=False):
        defaults[one.arg] = value
    for one, given in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
        defaults[one.arg] = given
    return described(of_function(node), defaults, told)


def described(kinds: Parameters, defaults: dict[str, ast.expr | None], told: str) -> dict[str, Argument]:
    """Arguments of their annotations, defaults and what a docstring says of them."""
    texts = {entry.arg_name: " ".join((entry.description or "").split()) for entry in parse(told).params}
    return {name: Argument(kind, texts.get(name, ""), shown(defaults.get(name))) for name, kind in kinds.items()}


def shown(default: ast.expr | None) -> str | None:
    """A default as it would be typed."""
    if isinstance(default, ast.Constant) and isinstance(default.value, str):
        return default.value
    return None if default is None else ast.unparse(default)
