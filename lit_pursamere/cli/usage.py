"""The verbs, where each is, and how they are told."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["GROUPS", "LIGHTNING_VERBS", "SHARDED", "VERBS", "Entry", "tell", "tell_all"]


class Entry(NamedTuple):
    """Where a verb is, and what it does in a few words."""

    module: str
    help: str


GROUPS = {  # by what one comes for
    "Is my classifier robust?": {
        "evaluate": Entry("evaluate", "attack an own classifier on own images, without a configuration"),
        "test": Entry("lightning", "attack the defence of a configuration, and print the table"),
        "certify": Entry("lightning", "find the l2 ball around each image in which no attack can succeed"),
        "compare": Entry("compare", "`test` many purifiers, and print one table"),
        "audit": Entry("audit", "ask whether an attack could have broken a defence, or how many draws its EoT needs"),
        "walk": Entry("walk", "look at purifications on their way: confidence, pictures, reconstruction error"),
        "judge": Entry("judge", "judge a file of adversarial images on your own defence"),
    },
    "Purify images": {
        "purify": Entry("purify", "purify your own pictures"),
        "predict": Entry("lightning", "purify a data set and keep the result"),
        "purified": Entry("purified", "look into what `predict` has made"),
    },
    "Train, plan, and go past one machine": {
        "init": Entry("init", "write a small project of your own"),
        "fit": Entry("lightning", "train a score model or a classifier"),
        "validate": Entry("lightning", "run the validation of a training"),
        "sigmas": Entry("sigmas", "choose the noise levels for a data set"),
        "experiment": Entry("experiment", "run the stages of an experiment in order"),
        "estimate": Entry("estimate", "say what a run, or a whole experiment, will cost"),
        "sbatch": Entry("sbatch", "a `predict`, `test` or `certify` as an array of SLURM jobs"),
        "ray": Entry("ray", "a `predict`, `test` or `certify` on the machines of a Ray cluster"),
    },
    "Look at results": {
        "report": Entry("report", "print the table of test runs again, as a page, CSV, LaTeX"),
        "runs": Entry("runs", "list the runs below a folder, and say in what runs differ"),
        "reverify": Entry("reverify", "judge the stored images of a test run again"),
        "export": Entry("export", "write the adversarial images of a test run to one file, for others"),
        "fid": Entry("fid", "how far samples, or purified images, are from a data set"),
        "figure": Entry("figure", "draw a figure of the theory"),
    },
    "Get and keep": {
        "weights": Entry("weights", "get weights by name, look into weight files, convert them"),
        "completion": Entry("completion", "print what makes bash, zsh or fish complete commands"),
    },
}
VERBS = {name: entry for group in GROUPS.values() for name, entry in group.items()}
LIGHTNING_VERBS = tuple(name for name, entry in VERBS.items() if entry.module == "lightning")
SHARDED = ("predict", "test", "certify")  # verbs whose images may be shared by commands that know nothing of each other


def tell(command: str, verbs: Mapping[str, str], word: str) -> int:
    """Print the verbs of a command, because help was asked for, or because a word is none; returns the exit status."""
    width = max(map(len, verbs))
    lines = "\n".join(f"  {name:<{width}}  {text}" for name, text in verbs.items())
    return tell_text(
        f"usage: lit-pursamere {command} [options]\n\n{lines}\n\n"
        f"`lit-pursamere {command} --help` shows examples of a verb, and its options.",
        word,
    )


def tell_all(word: str) -> int:
    """Print all verbs in their groups, for the same reasons; returns the exit status."""
    width = max(map(len, VERBS))
    blocks = [
        "\n".join((title, *(f"  {name:<{width}}  {entry.help}" for name, entry in group.items())))
        for title, group in GROUPS.items()
    ]
    return tell_text(
        "usage: lit-pursamere VERB [options]\n\n" + "\n\n".join(blocks) + "\n\n"
        "`lit-pursamere VERB --help` shows examples of a verb, and its options; `--version` says which this is.",
        word,
    )


def tell_text(text: str, word: str) -> int:
    """Print a usage, and what is wrong with a word that did not ask for it; returns the exit status."""
    if word in ("-h", "--help"):
        print(text)
        return 0
    mistake = f"lit-pursamere: error: unknown verb {word!r}\n\n" if word else ""
    print(f"{mistake}{text}", file=sys.stderr)
    return 2
