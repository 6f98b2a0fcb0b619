"""Mistyped verbs, options, classes and keys end a command before anything heavy is imported, with what was meant.

What is not certain passes: classes of others, and whatever stands where a type does not say what it must be. The
parser, which knows all of them, has the last word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from lit_pursamere.cli.signatures import (
    Parameters,
    class_names,
    definitions,
    function,
    parameters,
    trainer_parameters,
    verbs_of,
)
from lit_pursamere.cli.usage import LIGHTNING_VERBS, SHARDED, VERBS
from lit_pursamere.configuration.composition import asks_for_help, gathered, read_yaml
from lit_pursamere.names import meant
from lit_pursamere.shipped import names_of

__all__ = ["check_words"]

TRAINED = (*LIGHTNING_VERBS, "estimate", "audit", "walk")  # verbs of one configuration with a trainer
OF_A_FILE = ("compare", "experiment")  # verbs whose first word is the file of what they do
TOP = ("seed_everything", "model", "data", "trainer", "ckpt_path", "verbose", "weights_only", "return_predictions")
ALWAYS = ("config", "help", "print_config")
KINDS = {"model": "LitRobustness", "data": "ImageDataModule"}  # any class of ours: what is wanted is one
# What their options are about unless a class is named.
GROUPS = {"audit": "Checklist", "estimate": "Estimate", "walk": "Confidence"}
CLASS = ("class_path", "init_args", "dict_kwargs")
STRUCTURES = ("ThreatModel", "Ensemble")  # given by their arguments alone


def check_words(verb: str, words: Sequence[str]) -> None:
    """Look at a command line, and at the files that it names.

    Args:
        verb: Its first word, a known one.
        words: The others.

    Raises:
        FileNotFoundError: If a file of a configuration is not there.
        ValueError: If an option, a key or a class is certainly mistyped; the message says what was meant.
    """
    if asks_for_help(words):
        return
    for before, word in pairwise(("", *words)):
        if re.fullmatch(r"-[A-Za-z][\w.]+(=.*)?", word) and (not before.startswith("--") or "=" in before):
            raise ValueError(f"{word} is no option; options begin with two hyphens: -{word}")
    if verb in TRAINED:
        config, rest = gathered(words)
        check_configuration(config, rest, (*TOP, *GROUPS.keys() & {verb}, *(["shard"] if verb in SHARDED else ())))
        return
    name, module = verb.replace("-", "_"), VERBS[verb].module
    if (inner := verbs_of(module, name)) is not None:
        if not words or words[0] not in inner:
            return  # `parsing` tells which there are
        verb, name, words = f"{verb} {words[0]}", inner[words[0]], words[1:]
    if verb in OF_A_FILE and words and not words[0].startswith("-"):
        read_yaml(Path(words[0]))
    known, open_ended = function(module, name)
    if open_ended:
        return
    options = {key.replace("_", "-") if kind == "bool" else key: kind for key, kind in known.items()}
    for word in options_in(words):
        require(word, (*options, *ALWAYS), f"{verb} has no option --{word}", "--")
    objects = [key for key, kind in options.items() if class_of(kind)]
    if objects:
        for key, value in gathered(words, objects, objects[0])[0].items():
            check(value, f"--{key}", options[key])


def check_configuration(config: Mapping[str, Any], rest: Sequence[str], known: Sequence[str]) -> None:
    """Look at what a command with a trainer describes, and at the words that are none of its model and data."""
    for key in config:
        require(key, known, f"a configuration has no {key!r}")
    for word in options_in(rest):
        require(word, (*known, *ALWAYS), f"there is no option --{word}", "--")
    trainer, given = trainer_parameters(), config.get("trainer")
    named = [word.split(".")[1] for word in rest if word.startswith("--trainer.")]
    for key in [*(given if isinstance(given, Mapping) else ()), *(word.partition("=")[0] for word in named)]:
        require(str(key), trainer or (str(key),), f"the trainer has no {key!r}", "trainer.")
    for key, kind in KINDS.items():
        check(config.get(key), key, kind)
    for key, kind in GROUPS.items():
        own = [word.partition("=")[0] for word in rest if word.startswith(f"--{key}")]
        for word in own if f"--{key}" not in own else ():
            require(word.split(".")[1], parameters(kind) or (), f"{key} has no {word.split('.')[1]!r}", f"{key}.")


def check(value: Any, where: str, kind: str) -> None:
    """Look at what stands for a parameter of this annotation: a class by name or with arguments, or its arguments."""
    if kind.startswith(("dict[str, ", "list[")) and isinstance(value, Mapping | list):
        inner = kind.removesuffix(" | None").partition("[")[2].removeprefix("str, ").removesuffix("]")
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            check(item, f"{where}.{key}", inner)
        return
    wanted = class_of(kind)
    if isinstance(value, str) and wanted and "str" not in re.findall(r"\w+", kind):
        check_class(value, where)
    if not isinstance(value, Mapping):
        return
    if wanted and meant("class_path", value, cutoff=0.85):
        for key in value:
            require(key, CLASS, f"{where}: the description of a class has no {key!r}")
    name, arguments = value.get("class_path"), value.get("init_args")
    if not isinstance(name, str):
        name, arguments = (wanted, value) if wanted in STRUCTURES else (None, None)
    if name is None:
        return
    check_class(name, where)
    takes = parameters(name)
    for key, item in arguments.items() if takes is not None and isinstance(arguments, Mapping) else ():
        require(str(key).partition(".")[0], takes or (), f"{where}: {name.split('.')[-1]} takes no {key!r}")
        check(item, f"{where}.{key}", (takes or {}).get(str(key), ""))


def class_of(kind: str) -> str | None:
    """The class that an annotation asks for, if it is one of this package, or a network."""
    names = [name for name in re.findall(r"[A-Z]\w*", kind) if name in definitions() or name == "Module"]
    return names[0] if names else None


def check_class(name: str, where: str) -> None:
    """Refuse the name of a class that is none, but nearly that of one of this package, or of a file that it ships."""
    known = (*class_names(), *names_of(where.removeprefix("--").split(".")))
    if "." not in name and name not in definitions() and (hint := meant(name, known, cutoff=0.85)):
        raise ValueError(f"{where}: there is no class {name} here, and no file of that name{hint}")


def require(word: str, known: Iterable[str] | Parameters, refusal: str, prefix: str = "") -> None:
    """Refuse a word that is not known.

    Raises:
        ValueError: With this refusal, and the known word that is nearest, or all of them.
    """
    known = [name for name in known if name != "help"]
    if word.removesuffix("+") not in (*known, "help"):
        raise ValueError(refusal + (meant(word, known, prefix) or f"; known: {', '.join(sorted(known))}"))


def options_in(words: Sequence[str]) -> list[str]:
    """The options among words, without dashes and what follows a dot."""
    found = [word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--") and word != "--"]
    return [word.partition(".")[0] for word in found]
