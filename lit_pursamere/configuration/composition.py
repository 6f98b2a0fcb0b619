"""One configuration out of files and options, in their order.

    whatever is given as a whole replaces what stood there, entirely:  a file, the name of a class, a mapping with
    `class_path`, a list, the mapping of `attacks`;  `attacks+` adds to those that stand there
    every other mapping changes the settings that it names, and so does a dotted option, `--model.purifier.rho_pur 2`

Files name others relative to themselves, or those that come with the package by their names, see `shipped`; what they
name is read, never run. `~/` is the home folder everywhere.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from lit_pursamere.configuration.linking import linked
from lit_pursamere.names import meant
from lit_pursamere.shipped import configuration, home, names_of, part, require_known

if TYPE_CHECKING:
    from lit_pursamere.weights.registry import Entry

__all__ = [
    "about",
    "asks_for_help",
    "at_home",
    "compose",
    "configuration_of",
    "gathered",
    "overlay",
    "part_of",
    "read_yaml",
]

SECTIONS = ("model", "data")  # what options may take apart; those of the trainer are left to the parser
WHOLE = ("attacks",)
NAMED = {"score_model": "score model", "classifier": "classifier"}  # what may be told by the name of its weights
MOST_ENTRIES = 1_000_000  # of a file; a few lines of aliases of aliases stand for billions
BEYOND = [f"tag:yaml.org,2002:{kind}" for kind in ("timestamp", "binary", "set", "omap", "pairs")]  # JSON
FILE = re.compile(r"[^\s{}\[\]]+\.ya?ml")
HOME = re.compile(r"(--[\w.+-]+=)?~(?=/)")


class Loader(yaml.SafeLoader):
    """YAML of what JSON can say: dates are words, 1e-3 is a number, keys are words, none of them twice.

    No alias stands for very much.
    """

    yaml_constructors = {tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag not in BEYOND}
    yaml_implicit_resolvers = {
        letter: [(tag, pattern) for tag, pattern in known if tag not in BEYOND]
        for letter, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _weight(node, {}) > MOST_ENTRIES:
            raise yaml.YAMLError(f"with its aliases written out it has more than {MOST_ENTRIES} entries")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _at(key, "a key is a list or a mapping; it must be a word")
            if key.tag != "tag:yaml.org,2002:str":
                raise _at(key, f"the key {key.value} is no word to YAML; put it in quotes: '{key.value}'")
            if key.value in lines:
                raise _at(
                    key, f"two entries {key.value!r} in one mapping, the first in line {lines[key.value]}; rename one"
                )
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


def _weight(node: yaml.Node, known: dict[int, int]) -> int:
    """How many entries a node has, with its aliases written out."""
    if id(node) not in known:
        known[id(node)] = MOST_ENTRIES + 1  # what it is within itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_weight(part, known) for part in parts)
    return known[id(node)]


def _at(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)([eE][-+]?\d+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)


def read_yaml(file: Path, within: tuple[Path, ...] = ()) -> Any:
    """The content of a YAML file, with the files that it names in place of their names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no YAML, or files name each other in a circle.
    """
    if not file.is_file():
        if found := configuration(file):
            return read_yaml(found, within)
        hint = meant(str(file).removeprefix("configs/").removesuffix(".yaml"), names_of(), cutoff=0.8)
        raise FileNotFoundError(
            f"there is no file {file}"
            + (f", which {within[-1]} names" if within else "")
            + (f"{hint.removesuffix('?')}, which comes with the package?" if hint else "")
        )
    if file.resolve() in within:
        raise ValueError(f"{file} names itself, by way of {', '.join(map(str, within))}")
    return _inlined(_parsed(file.read_bytes(), str(file)), file, (*within, file.resolve()))


def _parsed(text: str | bytes, where: str) -> Any:
    try:
        return yaml.load(text.decode("utf-8-sig") if isinstance(text, bytes) else text, Loader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{where} is no text in UTF-8, see its byte {error.start}; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        problem = str(error.problem).replace("character '\\t'", "a tab")
        advice = "; indent with spaces" if "a tab" in problem else ""
        raise ValueError(f"{where} is no YAML, see line {line}: {problem}{advice}") from error
    except (yaml.YAMLError, RecursionError) as error:
        told = "it is nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"{where} is no YAML: {told}") from error


def _inlined(value: Any, file: Path, within: tuple[Path, ...], path: tuple[str, ...] = ()) -> Any:
    """What was read of a file, with the files that it names; `path` are the keys that lead there."""
    if isinstance(value, dict):
        if not isinstance(value.get("class_path", ""), str):
            raise ValueError(f"{file}: class_path must be the name of a class; got {value['class_path']!r}")
        return {key: _named(key, _inlined(item, file, within, (*path, key))) for key, item in value.items()}
    if isinstance(value, list):
        return [_inlined(item, file, within) for item in value]
    if isinstance(value, str):
        value = at_home(value)
        if FILE.fullmatch(value):
            beside = file.parent / value
            return read_yaml(beside if beside.is_file() else configuration(value) or beside, within)
        if found := part(value, path):
            return read_yaml(found, within)
    return value


def _named(key: str, value: Any) -> Any:
    """What the name of weights stands for: a class, its arguments and the weights; anything else as it is.

    Raises:
        ValueError: If it is the name of weights of the other kind, or nearly one.
    """
    if key not in NAMED or not isinstance(value, str) or "/" not in value:
        return value
    from lit_pursamere.weights.registry import entries  # imports torch

    entry = entries().get(value)
    if entry is None:
        if hint := meant(value, entries()):
            raise ValueError(f"{key}: no weights are called {value}{hint}")
        return value
    if entry.kind != NAMED[key]:
        raise ValueError(f"{key}: {value} is the name of a {entry.kind}")
    return configuration_of(entry)


def configuration_of(entry: Entry) -> dict[str, Any]:
    """The class that takes the weights of an entry, its arguments, and the weights by their name."""
    built = copy.deepcopy(entry.build)
    content = built if isinstance(built, dict) else read_yaml(home("configs") / built)
    return {**content, "init_args": {**content.get("init_args", {}), "checkpoint": entry.name}}


def at_home(text: str) -> str:
    """A path, or an option with one, whose `~/` is the home folder."""
    found = HOME.match(text)
    return f"{found[1] or ''}{os.path.expanduser('~')}{text[found.end() :]}" if found else text


def overlay(below: Any, above: Any, name: str = "") -> Any:
    """What stands after `above` was given where `below` stood; neither is changed."""
    if not isinstance(above, Mapping) or not isinstance(below, Mapping) or "class_path" in above or name in WHOLE:
        return above
    if "class_path" in below and above and not {"init_args", "dict_kwargs"} & above.keys():
        return {**below, "init_args": overlay(below.get("init_args") or {}, above)}
    found = dict(below)
    for key, value in above.items():
        plain = key.removesuffix("+") if isinstance(key, str) else key
        if plain != key and not isinstance(value, Mapping):
            raise ValueError(f"{key} takes a mapping, name by name, of what is added; got {value!r}")
        if plain != key:
            found[plain] = {**(found.get(plain) or {}), **value}
        else:
            found[key] = overlay(found.get(key), value, key)
    return found


RUNNING = ("ckpt_path", "verbose", "weights_only", "return_predictions")  # arguments of Lightning's verbs


def compose(args: list[str]) -> list[str]:
    """The command line with one configuration in place of all `--config` files and of all options of model and data.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is no YAML, or an option lacks its value, or a number that the data do not say.
    """
    if asks_for_help(args):
        return args
    config, words = gathered(args)
    config = linked(config, _data_module)
    verb = words[:1] if words and not words[0].startswith("-") else []
    if not verb:  # what a run has saved of how it was started says nothing to who only builds its parts
        config = {name: part for name, part in config.items() if name not in RUNNING or (part and name == "ckpt_path")}
    return [*verb, *([f"--config={json.dumps(config)}"] if config else []), *words[len(verb) :]]


def _data_module(told: dict[str, Any]) -> object:
    from lit_pursamere.configuration.building import build
    from lit_pursamere.data import ImageDataModule  # imports torch

    return build(ImageDataModule, told)


def asks_for_help(args: Sequence[str]) -> bool:
    """Whether a command line asks for help, of all or, as in `--model.help LitRobustness`, of a class."""
    return any(arg in ("--help", "-h") or arg.partition("=")[0].endswith(".help") for arg in args)


def gathered(
    args: Sequence[str], sections: Sequence[str] = SECTIONS, alone: str | None = None
) -> tuple[dict[str, Any], list[str]]:
    """One configuration of all `--config` files and of all options of these sections, and the other words.

    Args:
        args: The command line.
        sections: First words of the options that the configuration holds.
        alone: The section that a file with a `class_path` of its own is about.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is no YAML or about something else, or an option lacks its value.
    """
    config: dict[str, Any] = {}
    rest: list[tuple[list[str], list[str]]] = []  # path and words of what the parser gets as it is
    for words, value in _options(args, sections):
        name = words[0].partition("=")[0]
        path = name.removeprefix("--").split(".") if name.startswith("--") else []
        if name == "--config":
            if not value:
                raise ValueError("--config lacks its value")
            given = _content(value) if value.lstrip().startswith("{") else read_yaml(Path(value))
            if alone is None and not isinstance(given, dict):
                told = "is empty" if given is None else f"says {str(given)[:60]!r}"
                raise ValueError(f"{value} is no configuration, entries such as `model:` and `data:`; it {told}")
            config = overlay(config, given if alone is None else about(given, sections, alone, value))
            rest = [(other, kept) for other, kept in rest if not _states(given, other)]  # whatever comes later wins
        elif path and path[0] in sections:
            config = _with(config, path, _named(path[-1], _content(value, path)))
        else:
            rest.append((path, words))
    return config, [word for _, kept in rest for word in kept]


def about(content: Any, sections: Sequence[str], alone: str, file: str) -> dict[str, Any]:
    """What a file says of these sections; a file with a class of its own is about the section `alone`.

    Raises:
        ValueError: If it says nothing of them.
    """
    if isinstance(content, dict) and (found := {name: content[name] for name in sections if name in content}):
        return found
    if isinstance(content, dict) and "class_path" in content:
        return {alone: content}
    raise ValueError(
        f"{file} is not the file of a {alone} (class_path and init_args), and has no "
        f"{' or '.join(f'`{name}`' for name in sections)}; give another as --config"
    )


def _options(args: Sequence[str], sections: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """The words of every option, in their order, and its value, which is empty where it may lack one."""
    waiting = list(map(at_home, args))
    while waiting:
        word = waiting.pop(0)
        name, given, value = word.partition("=")
        if given or not word.startswith("--"):
            yield [word], value
        elif waiting and not waiting[0].startswith("--"):
            value = waiting.pop(0)
            yield [word, value], value
        elif name == "--config" or name.removeprefix("--").split(".")[0] in sections:
            raise ValueError(f"{name} lacks its value")
        else:
            yield [word], ""


def _states(content: Any, path: list[str]) -> bool:
    """Whether the content of a file says what stands at the path of an option."""
    for key in path:
        if not isinstance(content, Mapping) or key not in content:
            return False
        content = content[key]
    return bool(path)


def _content(text: str, path: Sequence[str] = ()) -> Any:
    """What the value of an option means: a file's content, a mapping, a list, nothing, or a word for the parser."""
    if FILE.fullmatch(text):
        return read_yaml(Path(text))
    if text in ("null", "~") or text[:1] in ("{", "["):
        return _inlined(_parsed(text, text), Path("."), (), tuple(path))
    return read_yaml(found) if (found := part(text, path)) else text


def part_of(value: str | Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """What a part of a configuration is that is told by a word, a file, the name of a class, or a mapping.

    Args:
        value: As after `--model.purifier`.
        path: The keys that lead there.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is no YAML, or nothing of that name comes with the package.
    """
    if isinstance(value, str):
        require_known(value, path)
    found = _named(path[-1], _content(value, path)) if isinstance(value, str) else _inlined(value, Path("."), ())
    return {"class_path": found} if isinstance(found, str) else dict(found)


def _with(node: Any, parts: list[str], value: Any, name: str = "") -> Any:
    """The node with a setting changed, by its path from there."""
    if not parts:
        return overlay(node, value, name)
    if isinstance(node, str):
        node = {"class_path": node}
    node = node if isinstance(node, Mapping) else {}
    if "class_path" in node and parts[0] not in ("class_path", "init_args", "dict_kwargs"):
        parts = ["init_args", *parts]
    head, *tail = parts
    if head.endswith("+") and not tail:
        return overlay(node, {head: value})
    return {**node, head: _with(node.get(head), tail, value, head)}
