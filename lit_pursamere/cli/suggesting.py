"""What may stand at the end of a command that is being typed, read from sources and names of files alone.

suggestions(["test", "--config"], "digits/r")       ['digits/robustness']
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from lit_pursamere.cli.arguments import Argument, about_verb, arguments
from lit_pursamere.cli.known_words import first_words, values
from lit_pursamere.cli.matter import CLASSES, MATTER, PARTS
from lit_pursamere.cli.signatures import definitions, trainer_parameters, verbs_of
from lit_pursamere.cli.usage import LIGHTNING_VERBS, VERBS
from lit_pursamere.configuration.composition import gathered

__all__ = ["suggestions"]


def suggestions(words: Sequence[str], begun: str) -> list[str]:
    """The words that may stand in the place of one that is begun; none where a file is meant, or anything.

    Args:
        words: Those before it, from the verb on.
        begun: What is typed of it.
    """
    return sorted({word for word in fitting(words, begun) if word.startswith(begun)})


def fitting(words: Sequence[str], begun: str) -> Iterable[str]:
    """The words that may stand there, whatever is begun."""
    if not words:
        return (*VERBS, "--help", "--version")
    verb, rest = words[0], words[1:]
    if verb not in VERBS:
        return ()
    inner = verbs_of(VERBS[verb].module, verb)
    if inner is not None:
        if not rest or rest[0] not in inner:
            return () if rest else (*inner, "--help")
        verb, function, rest = f"{verb} {rest[0]}", inner[rest[0]], rest[1:]
    else:
        function = verb
    known = options_of(verb, function, rest, begun)
    name, equals, _ = begun.partition("=")
    if equals:
        return (f"{name}={value}" for value in values(verb, name, known.get(name)))
    if begun.startswith("-"):
        return (*known, "--help")
    before = rest[-1] if rest else ""
    if before.startswith("--") and "=" not in before and not is_switch(verb, known.get(before)):
        return values(verb, before, known.get(before))
    return () if rest else first_words(verb, function)


def is_switch(verb: str, option: Argument | None) -> bool:
    """Whether an option takes no value."""
    return option is not None and option.kind == "bool" and verb not in MATTER


def options_of(verb: str, function: str, words: Sequence[str], begun: str) -> dict[str, Argument]:
    """The options of a verb, and what is known of each."""
    about = about_verb(VERBS[verb.split()[0]].module, function).arguments
    found = {
        f"--{name.replace('_', '-') if one.kind == 'bool' else name}": one
        for name, one in about.items()
        if name != "options" and one.default is not None
    }
    if any(class_of(one.kind) for one in found.values()):
        found["--config"] = Argument("Path", "", "")
    if verb in MATTER or verb in ("compare", "judge", "experiment"):
        found |= of_configuration(verb if verb in MATTER else "test")
    path = begun.partition("=")[0].removeprefix("--").split(".")[:-1]
    if path:
        within = arguments(class_along(path, words, found))
        found |= {f"--{'.'.join((*path, key))}": one for key, one in within.items()}
    return found


def of_configuration(verb: str) -> dict[str, Argument]:
    """The options of a verb of a configuration, down to the arguments of model, data and trainer."""
    plain = ["config", "seed_everything", "print_config", "trainer.help", "model.help"]
    plain += ["ckpt_path", "verbose"] if verb in LIGHTNING_VERBS else [verb]
    found = {f"--{name}": Argument("", "", "") for name in plain}
    found |= {"--model": Argument(PARTS[verb][0], "", ""), "--data": Argument("ImageDataModule", "", "")}
    for owner in (*PARTS[verb], "ImageDataModule", *(one for one, place in CLASSES.items() if place == verb)):
        found |= {f"--{CLASSES[owner]}.{key}": one for key, one in arguments(owner).items()}
    return found | {f"--trainer.{key}": Argument(kind, "", "") for key, kind in trainer_parameters().items()}


def class_along(path: Sequence[str], words: Sequence[str], known: dict[str, Argument]) -> str:
    """The class that stands where such keys lead: the one that is configured, or else the one that is asked for.

    Args:
        path: `model`, `purifier`.
        words: Those of the command, which may name files.
        known: The options above.
    """
    sections = sorted({option.removeprefix("--").split(".")[0] for option in known})
    with suppress(OSError, ValueError):
        node: Any = gathered(words, sections)[0] if "--config" in known else {}
        name = ""
        for depth, key in enumerate(path, 1):
            inner = node.get("init_args", node) if isinstance(node, dict) else {}
            node = inner.get(key) if isinstance(inner, dict) else None
            asked = known.get(f"--{'.'.join(path[:depth])}") or arguments(name).get(key)
            given = node.get("class_path") if isinstance(node, dict) else node
            name = given if isinstance(given, str) and arguments(given) else class_of(asked.kind if asked else "")
        return name
    return ""


def class_of(kind: str) -> str:
    """The class of this package that an annotation is about; empty if it is about none."""
    return next((name for name in re.findall(r"[A-Z]\w*", kind) if arguments(name) or name in definitions()), "")
