"""The verbs, where each is, and how they are told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["LIGHTNING_VERBS", "VERBS", "Entry", "tell"]


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
    "evaluate": Entry("evaluate", "`test` an own classifier on own images, without a configuration"),
    "init": Entry("init", "write a small project of your own"),
    "compare": Entry("compare", "`test` many purifiers, and print one table"),
    "report": Entry("report", "print the table of a test run again"),
    "runs": Entry("runs", "list the runs below a folder, and say in what runs differ"),
    "reverify": Entry("reverify", "judge the stored images of a test run again"),
    "export": Entry("export", "write the adversarial images of a test run to one file, for others"),
    "judge": Entry("judge", "judge such a file on your own defence"),
    "figure": Entry("figure", "draw a figure of the theory"),
    "experiment": Entry("experiment", "run the stages of an experiment in order"),
    "estimate": Entry("estimate", "say what a fit, predict or test will cost"),
    "audit": Entry("audit", "ask whether an attack could have broken a defence, or how many draws its EoT needs"),
    "sigmas": Entry("sigmas", "choose the noise levels for a data set"),
    "weights": Entry("weights", "get weights by name, look into weight files, convert them"),
}
LIGHTNING_VERBS = tuple(name for name, entry in VERBS.items() if entry.module == "lightning")


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
