"""The words that may be given to an option or stand first: names of what is shipped, and choices of the source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lit_pursamere.cli.arguments import Argument, about_verb
from lit_pursamere.cli.matter import MATTER, PARTS
from lit_pursamere.cli.signatures import PACKAGE
from lit_pursamere.cli.usage import LIGHTNING_VERBS, VERBS
from lit_pursamere.shipped import home, names_of

__all__ = ["first_words", "values"]

SHELLS = ("bash", "zsh", "fish")
WEIGHTS = re.compile(r"^(\S+/\S+):\n  kind: (.+)$", re.MULTILINE)
FIRST = {"experiment": "stages", "compare": "purifiers"}  # of whose first word the file has such an entry
TAKE_WEIGHTS = ("weights get", "weights inspect", "weights convert")
KINDS = {"score_model": "score model", "classifier": "classifier"}
TRAINER = {
    "accelerator": ("auto", "cpu", "gpu"), "precision": ("32-true", "bf16-mixed", "16-mixed", "64-true"),
    "strategy": ("auto", "ddp"), "devices": ("auto",),
}  # fmt: skip


def values(verb: str, option: str, one: Argument | None) -> Iterable[str]:
    """What may be given to an option."""
    path = option.removeprefix("--").split(".")
    if option == "--help":
        return ("all",) if verb in MATTER else ()
    if option == "--config":
        return names_of_configurations(PARTS.get(verb, ("LitRobustness",)))
    if option in ("--model", "--model.help"):
        return PARTS.get(verb, ())
    if option.startswith("--trainer."):
        return TRAINER.get(option.removeprefix("--trainer."), ())
    if verb == "evaluate" and path == ["attacks"]:
        return ("quick", "paper", "strong", *names_of(["attacks", "one"]))
    shipped = [*names_of(path), *(weights(KINDS[path[-1]]) if path[-1] in KINDS else ())]
    if shipped or one is None:
        return shipped
    return one.choices or (("true", "false") if one.kind == "bool" else ())


def first_words(verb: str, function: str) -> Iterable[str]:
    """What a verb may begin with."""
    if verb == "completion":
        return SHELLS
    if verb in TAKE_WEIGHTS:
        return weights()
    if verb == "evaluate":
        return weights("classifier")
    if verb == "estimate":
        return (*LIGHTNING_VERBS, *FIRST)
    if verb in FIRST:
        return names_of_configurations((f"\n{FIRST[verb]}:",))
    known = about_verb(VERBS[verb.split()[0]].module, function).arguments
    return next((one.choices for one in known.values() if one.default is None), ())


def names_of_configurations(about: Sequence[str]) -> list[str]:
    """The shipped configurations in which one of these texts stands."""
    files = {name: home("configs") / f"{name}.yaml" for name in names_of()}
    texts = {name: "\n" + file.read_text(encoding="utf-8") for name, file in files.items()}
    return [name for name, text in texts.items() if any(word in text for word in about)]


def weights(kind: str = "") -> list[str]:
    """The names of weights of a kind, or of all."""
    texts = [file.read_text(encoding="utf-8") for file in (PACKAGE / "weights/entries").glob("*.yaml")]
    return [name for text in texts for name, one in WEIGHTS.findall(text) if kind in (one, "")]
