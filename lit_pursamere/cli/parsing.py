"""A verb is a typed function: its signature is the parser of its command line, its docstring the help.

    parameter without default   a word in its place;  list[T]: one or more of them
    parameter with default      an option of that name;  bool: a switch;  list[T]: several words;  Literal: choices
    ... that is an object       a class by its name or file, and its arguments `--NAME.ARGUMENT`;  `--config FILE`: the
                                first such, or all of them by name
    *options                    whatever else is given, for the verbs that this one runs

A command line that does not parse ends with the usage, one line that says what is wrong, and status 2.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn, get_args, get_origin

from docstring_parser import parse
from jsonargparse import ArgumentParser

from lit_pursamere.cli.usage import tell
from lit_pursamere.configuration.building import know_names
from lit_pursamere.configuration.composition import about, asks_for_help, gathered, read_yaml
from lit_pursamere.configuration.linking import require_numbers
from lit_pursamere.configuration.readable import readable
from lit_pursamere.names import shown

__all__ = ["Verb", "aligned", "read_part", "run_verb"]

Verb = Callable[..., None]
PLAIN = (str, int, float, Path)  # kinds of arguments that are no classes to be built


class Parser(ArgumentParser):
    """jsonargparse's parser, which takes no abbreviations here, and whose errors are one line below the usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:  # a parser within, which tries one of several types
            super().error(message, ex)
        self.print_usage(sys.stderr)
        self.exit(2, f"lit-pursamere: error: {' '.join(readable(ValueError(message)).split())}\n")


def run_verb(name: str, verb: Verb | dict[str, Verb], args: Sequence[str]) -> None:
    """Parse a command line and run its verb.

    Args:
        name: The verb's word.
        verb: Its function; or several, by the word that follows.
        args: What stands behind the word.

    Raises:
        FileNotFoundError: If the file of a `--config` is not there.
        SystemExit: After `--help`, and with status 2 if the command line does not parse.
        ValueError: If the file of a `--config` is about something else.
    """
    if isinstance(verb, dict):
        word, *args = args or [""]
        if word not in verb:
            helps = {known: str(parse(one.__doc__).short_description) for known, one in verb.items()}
            raise SystemExit(tell(f"{name} VERB", helps, word))
        name, verb = f"{name} {word}", verb[word]
    signature = inspect.signature(verb, eval_str=True)
    parameters = signature.parameters
    passed: list[str] = []
    if list(parameters) == ["options"]:
        return verb(*args)
    if "options" in parameters:
        args, passed = apart(args, signature)
    parser = parser_of(name, verb, signature)
    values = vars(parser.instantiate(parser.parse_args(composed(args, signature))))
    bound = inspect.BoundArguments(signature, {})
    bound.arguments.update({name: values.get(name, passed) for name in parameters})
    return verb(*bound.args, **bound.kwargs)


def parser_of(name: str, verb: Verb, signature: Signature) -> Parser:
    """The parser of a function's signature."""
    told = parse(verb.__doc__)
    helps = {entry.arg_name: entry.description for entry in told.params}
    text = "\n\n".join(filter(None, (told.short_description, told.long_description)))
    parser = Parser(f"lit-pursamere {name}", description=text, allow_abbrev=False)
    for parameter in signature.parameters.values():
        if parameter.name != "options":
            add(parser, parameter, helps.get(parameter.name))
    return parser


def add(parser: Parser, parameter: Parameter, text: str | None) -> None:
    """Add an argument for a parameter of a verb."""
    name, kind = parameter.name, parameter.annotation
    if parameter.default is Parameter.empty:
        many = {"nargs": "+", "type": get_args(kind)[0]} if get_origin(kind) is list else {"type": kind}
        parser.add_argument(name, help=text, **many)
    elif kind is bool:
        parser.add_argument(option(parameter), action="store_true", help=text)
    elif get_origin(bare(kind)) is list:
        parser.add_argument(option(parameter), nargs="+", type=get_args(bare(kind))[0], help=text)
    elif is_class(kind):
        know_names()
        parser.add_argument(option(parameter), type=kind, help=text)
    else:
        parser.add_argument(option(parameter), type=kind, default=parameter.default, help=text)


def option(parameter: Parameter) -> str:
    """How a parameter with a default is written; switches with hyphens."""
    return f"--{parameter.name.replace('_', '-') if parameter.annotation is bool else parameter.name}"


def bare(kind: Any) -> Any:
    """A type without `| None`."""
    others = [one for one in get_args(kind) if one is not NoneType]
    return others[0] if NoneType in get_args(kind) and len(others) == 1 else kind


def is_class(kind: Any) -> bool:
    """Whether an argument of this type is an object that its configuration builds."""
    return any(inspect.isclass(one) and not issubclass(one, (*PLAIN, NoneType)) for one in get_args(kind) or [kind])


def apart(args: Sequence[str], signature: Signature) -> tuple[list[str], list[str]]:
    """A verb's own words, and the options that it passes on."""
    known, rest = {"--help", *map(option, signature.parameters.values())}, list(args)
    own, passed = [], []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or word.partition("=")[0] in known:
            own.append(word)
        elif word != "--":
            passed.append(word)
            passed += [rest.pop(0)] if "=" not in word and rest and not rest[0].startswith("--") else []
    return own, passed


def composed(args: Sequence[str], signature: Signature) -> list[str]:
    """The words, with one value for each argument that is an object, see `composition`; a file may be about the first.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is no YAML or about something else, or an option lacks its value.
    """
    objects = [name for name, parameter in signature.parameters.items() if is_class(parameter.annotation)]
    if not objects or asks_for_help(args):
        return list(args)
    config, words = gathered(args, objects, objects[0])
    require_numbers(config)
    return words + [
        f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in config.items()
    ]


def read_part(file: Path, name: str) -> Any:
    """What a configuration says of one of its parts; a file of that part alone is all of it.

    Args:
        file: YAML file; what it names relative to itself is read with it.
        name: `model`, `data`, `purifier`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it says nothing of that part.
    """
    content = read_yaml(file)
    if isinstance(content, dict) and content.get(name, "") is None:
        del content[name]  # says nothing
    told = about(content, (name,), name, str(file))[name]
    require_numbers(told)
    return told


def aligned(rows: dict[str, str]) -> str:
    """Names and values in two columns, each shown as text."""
    texts = {shown(name): shown(value) for name, value in rows.items()}
    width = max(map(len, texts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in texts.items())
