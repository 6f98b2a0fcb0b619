"""The command line: a verb, and what belongs to it.

lit-pursamere test --config configs/digits/robustness.yaml --model.purifier.rho_pur 1.5
lit-pursamere report runs/digits/robustness
lit-pursamere figure reconstruction-error figure1.png

A verb is a function of its name (`_` for `-`) in the module that `VERBS` names, which is imported only to run it.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

from lit_pursamere import __version__
from lit_pursamere.cli.lightning import MISFIT, readable

__all__ = ["LIGHTNING_VERBS", "MISTAKES", "VERBS", "console", "main", "tell"]


class Entry(NamedTuple):
    """Where a verb is, and what it does in a few words."""

    module: str
    help: str


VERBS = {
    "fit": Entry("lightning", "train a score model or a classifier        (LitScoreModel, LitClassifier)"),
    "validate": Entry("lightning", "run its validation                         (LitScoreModel, LitClassifier)"),
    "predict": Entry("lightning", "purify a data set and keep the result      (LitPurification)"),
    "purify": Entry("purify", "purify your own pictures"),
    "purified": Entry("purified", "look into what `predict` has made"),
    "test": Entry("lightning", "attack a defence and print the table       (LitRobustness)"),
    "compare": Entry("compare", "`test` many purifiers, and print one table"),
    "report": Entry("report", "print the table of a test run again"),
    "reverify": Entry("reverify", "judge the stored images of a test run again"),
    "figure": Entry("figure", "draw a figure of the theory"),
    "experiment": Entry("experiment", "run the stages of an experiment in order"),
    "estimate": Entry("estimate", "say what a fit, predict or test will cost"),
    "audit": Entry("audit", "ask whether an attack could have broken a defence, or how many draws its EoT needs"),
    "sigmas": Entry("sigmas", "choose the noise levels for a data set"),
    "weights": Entry("weights", "look into weight files, convert them"),
}
LIGHTNING_VERBS = tuple(name for name, entry in VERBS.items() if entry.module == "lightning")
MISTAKES = (ValueError, OSError, RuntimeError, ArgumentError)
NO_GRADIENT = "logits without a gradient"  # as in attacks.gradients, without importing torch for `--help`


def main(args: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Wrong input ends in one line on stderr, not in a traceback."""
    name, *rest = (sys.argv[1:] if args is None else args) or [""]
    if name == "--version":
        print(f"lit-pursamere {__version__}")
        return 0
    if name not in VERBS:
        return tell("VERB", {verb: entry.help for verb, entry in VERBS.items()}, name)
    try:
        run(name, rest)
    except MISTAKES as error:
        if isinstance(error, RuntimeError) and not any(mistake in str(error) for mistake in (MISFIT, NO_GRADIENT)):
            raise
        if os.environ.get("LIT_PURSAMERE_TRACEBACK"):
            raise
        print(f"lit-pursamere: error: {readable(error)}", file=sys.stderr)
        print("(LIT_PURSAMERE_TRACEBACK=1 shows where it came from)", file=sys.stderr)
        return 1
    return 0


def run(name: str, args: Sequence[str]) -> None:
    """Run a verb."""
    from lit_pursamere.cli.parsing import run_verb

    verb = getattr(import_module(f"lit_pursamere.cli.{VERBS[name].module}"), name.replace("-", "_"))
    run_verb(name, verb, args)


def tell(command: str, verbs: Mapping[str, str], word: str) -> int:
    """Print the verbs of a command, because help was asked for, or because a word is none; returns the exit status."""
    width = max(map(len, verbs))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in verbs.items())
    text = (
        f"usage: lit-pursamere {command} [options]\n\n{lines}\n\n"
        f"`lit-pursamere {command} --help` lists the options of a verb."
    )
    if word in ("-h", "--help"):
        print(text)
        return 0
    mistake = f"lit-pursamere: error: unknown verb {word!r}\n\n" if word else ""
    print(f"{mistake}{text}", file=sys.stderr)
    return 2


def console() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
