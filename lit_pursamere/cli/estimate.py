"""`lit-pursamere estimate`: what a run, a comparison or a whole experiment will cost."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from lit_pursamere.cli.compare import compare
from lit_pursamere.cli.experiment import read_stages
from lit_pursamere.cli.lightning import command_line
from lit_pursamere.cli.parsing import apart, parser_of
from lit_pursamere.cli.plan import read_plan
from lit_pursamere.cli.usage import LIGHTNING_VERBS
from lit_pursamere.estimate import Estimate, Stage, clocked, devices_of, stages_of, told
from lit_pursamere.weights.cache import is_here

__all__ = ["estimate"]

RESTS = {"devices": 1, "num_nodes": 1, "strategy": "auto", "logger": False, "callbacks": None}  # a trainer, not used
WITHOUT_DEVICE = {"accelerator": "cpu", "precision": "32-true"}


def estimate(*options: str) -> None:
    """Say what a run, a comparison or a whole experiment will cost: FLOP, memory, and hours on devices.

    First comes a verb (or none: the configuration says which), or `experiment FILE`, or `compare FILE`; further
    options go to every run. Neither images nor weights are needed, but for a folder's or a file's own images.
    """
    stages: list[Stage] = []
    left_out: list[str] = []
    missing: dict[str, None] = {}
    asked = Estimate()
    for name, words in runs(options):
        if words and words[0] not in LIGHTNING_VERBS and not words[0].startswith("-"):
            left_out.append(words[0])
            continue
        found, asked = of_run(words[1:] if words and words[0] in LIGHTNING_VERBS else words, missing)
        stages += [replace(stage, name=f"{name}{stage.name}") for stage in found]
    if not stages:
        raise ValueError("there is nothing to estimate: no fit, predict, test, certify or compare")
    print(told(stages, devices_of(asked.devices)), end="")
    if left_out:
        print(f"Not estimated: {', '.join(dict.fromkeys(left_out))}")
    if missing:
        print(f"Not there yet: {', '.join(missing)}")


def runs(options: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """What is to be estimated: a prefix for the names of its stages, and its words."""
    verb, *rest = options or ("",)
    if verb not in ("experiment", "compare"):
        yield "", list(options)
        return
    if not rest or rest[0].startswith("-"):
        raise ValueError(f"estimate {verb} needs the file of the {verb}")
    stages = read_stages(Path(rest[0])) if verb == "experiment" else [["compare", rest[0]]]
    for number, words in enumerate(stages, start=1):
        prefix = f"{number} {words[0]}: " if verb == "experiment" else ""
        if words[0] != "compare":
            yield prefix, [*words, *(rest[1:] if words[0] in LIGHTNING_VERBS else ())]
            continue
        for name, arguments in of_comparison([*words[1:], *rest[1:]]):
            yield f"{prefix}{name}: ", arguments


def of_comparison(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The rows that `compare` with these words would evaluate, and the words of the `test` of each."""
    signature = inspect.signature(compare, eval_str=True)
    own, passed = apart(words, signature)
    asked = parser_of("compare", compare, signature).parse_args(own)
    plan = read_plan(asked.file, asked.output)
    for name in plan.choose(asked.only):
        yield name, plan.arguments(name, passed)


def of_run(words: list[str], missing: dict[str, None]) -> tuple[list[Stage], Estimate]:
    """The stages of one configuration, and how they are to be estimated; weights that are not there are noted."""
    settings: dict[str, Any] = {}

    def prepare(config: Namespace) -> None:
        missing.update(dict.fromkeys(without_weights(config)))
        settings.update(vars(config.trainer))
        changed = RESTS if config.estimate.measure else RESTS | WITHOUT_DEVICE
        vars(config.trainer).update({key: value for key, value in changed.items() if key in settings})

    cli = command_line(words, False, {"estimate": Estimate}, prepare)
    asked, precision = cli.config_init.estimate, str(settings.get("precision") or "32-true")
    stages = [replace(stage, precision=precision) for stage in stages_of(cli.model, cli.datamodule, settings)]
    return clocked(stages, cli.trainer) if asked.measure else stages, asked


def without_weights(config: object) -> list[str]:
    """Take every `checkpoint` out of a configuration, in place, at any depth; returns the files that are not there."""
    missing = []
    for key, value in (vars(config) if isinstance(config, Namespace) else config).items():  # type: ignore[attr-defined]
        if key == "checkpoint" and isinstance(value, str):
            missing += [] if is_here(value) else [value]
            config[key] = None  # type: ignore[index]
        elif isinstance(value, Namespace | dict):
            missing += without_weights(value)
    return missing
