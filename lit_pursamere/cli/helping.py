"""`lit-pursamere VERB --help`: one screen, examples first, from the source alone; `--help all` is the parser's own."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from itertools import pairwise

from lit_pursamere.cli.arguments import Argument, about_verb, arguments, trainer_arguments
from lit_pursamere.cli.examples import EXAMPLES
from lit_pursamere.cli.matter import CLASSES, MATTER, PARTS, SAID
from lit_pursamere.cli.signatures import verbs_of
from lit_pursamere.cli.usage import VERBS

__all__ = ["HELP", "asks_for_screen", "screen"]

HELP = ("-h", "--help")
OF_TRAINER = "--trainer.help"
WIDEST = 100


def asks_for_screen(words: Sequence[str]) -> bool:
    """Whether a command line asks for help that is told here; the parser knows what `--help all` tells."""
    return OF_TRAINER in words or any(word in HELP and after != "all" for word, after in pairwise((*words, "")))


def screen(verb: str, words: Sequence[str]) -> str:
    """The help of a verb, at most 40 lines of 100 columns; or of the settings of the trainer, which are more.

    Args:
        verb: A known one.
        words: What stands behind it; the first may be a verb of its own.
    """
    module, function = VERBS[verb].module, verb.replace("-", "_")
    width = min(shutil.get_terminal_size((WIDEST, 0)).columns, WIDEST)
    if OF_TRAINER in words:
        rows = [(f"--trainer.{name}", briefly(one)) for name, one in trainer_arguments().items()]
        return "\n".join(columns(rows, width))
    if (inner := verbs_of(module, function)) is not None:
        word = words[0] if words and words[0] in inner else ""
        if not word:
            return inside(verb, {name: about_verb(module, one).sentence for name, one in inner.items()})
        verb, function = f"{verb} {word}", inner[word]
    told = about_verb(module, function)
    rows = list(of_configuration(verb) if verb in MATTER else of_function(told.arguments))
    options = "\n".join(columns(rows, width))
    blocks = (filled(told.sentence, width), listed(EXAMPLES[verb]), filled(told.more, width), options, rest(verb))
    return "\n\n".join(filter(None, blocks))


def inside(verb: str, verbs: dict[str, str]) -> str:
    """The help of a verb that is several."""
    told = VERBS[verb].help
    few = listed([EXAMPLES[f"{verb} {word}"][0] for word in verbs])
    shown = "\n".join(columns(list(verbs.items()), WIDEST))
    more = f"`lit-pursamere {verb} VERB --help` says more of each."
    return "\n\n".join((f"{told[0].upper()}{told[1:]}.", few, shown, more))


def listed(commands: Sequence[str]) -> str:
    """Commands, each on a line."""
    return "\n".join(f"  {line if 'lit-pursamere ' in line else f'lit-pursamere {line}'}" for line in commands)


def filled(text: str, width: int) -> str:
    """Paragraphs, filled."""
    return "\n\n".join(textwrap.fill(" ".join(part.split()), width) for part in text.split("\n\n"))


def of_configuration(verb: str) -> Iterator[tuple[str, str]]:
    """Options of a verb of a configuration, and what they mean."""
    for name in MATTER[verb]:
        owner, _, key = name.partition(".")
        option = f"{CLASSES[owner]}.{key}" if owner in CLASSES else name
        yield f"--{option}", SAID.get(option) or briefly(arguments(owner)[key])


def of_function(known: dict[str, Argument]) -> Iterator[tuple[str, str]]:
    """Arguments of a verb, and what they mean."""
    for name, one in known.items():
        if name == "options":
            continue
        many = " ..." if one.kind.startswith("list[") else ""
        if one.default is None:
            yield name.upper() + many, with_default(one)
        else:
            yield f"--{name.replace('_', '-') if one.kind == 'bool' else name}{many}", with_default(one)


def briefly(one: Argument) -> str:
    """The first sentence of its description, and its default."""
    return with_default(one._replace(text=re.split(r"\. |\n", one.text)[0]))


def with_default(one: Argument) -> str:
    """The description of an argument, its choices and its default, as far as they are not said in it."""
    text = one.text.rstrip(".")
    choices = "" if all(word in text for word in one.choices) else f" [{', '.join(one.choices)}]"
    default = "" if "(default" in text or not one.has_default else f" (default: {one.default})"
    return f"{text}{choices}{default}."


def columns(rows: Sequence[tuple[str, str]], width: int) -> Iterator[str]:
    """Names and texts side by side, texts wrapped."""
    left = max((len(name) for name, _ in rows), default=0) + 4
    for name, text in rows:
        yield textwrap.fill(
            text, width, initial_indent=f"  {name:<{left - 2}}", subsequent_indent=" " * left, break_on_hyphens=False
        )


def rest(verb: str) -> str:
    """Where all the rest is told."""
    if verb not in MATTER:
        return ""
    parts = "; ".join(f"--model.help {name}" for name in PARTS[verb])
    return f"All options: lit-pursamere {verb} --help all\nThose of a part: {parts}; --trainer.help"
