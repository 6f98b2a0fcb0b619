"""A comparison: one row per purifier, one column per attack, what a purification costs, and what papers report.

Every purifier has a run of its own, OUTPUT/NAME; `comparison_formats` writes the table down.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from lit_pursamere.report.nearest import Nearest, nearest
from lit_pursamere.report.report import Line, Report
from lit_pursamere.report.runs import Run, differences, missing_rows
from lit_pursamere.store.costs import Cost, read_cost
from lit_pursamere.store.manifest import read_manifest
from lit_pursamere.store.records import read_rows

__all__ = ["Comparison", "Contestant", "check_comparison", "read_comparison", "run_of"]

MAY_DIFFER = ("evaluations", "slots")  # beside systems and attacks: how often, and in what batches, is judged
MUST_AGREE = ("view", "norm", "eps")  # of attacks of one name


@dataclass(frozen=True)
class Contestant:
    """One row of a comparison.

    Args:
        run: Its run, labelled by the purifier's name.
        cost: What a purification costs, if that was measured.
        setting: Classifier and score model, as far as the run's configuration tells.
    """

    run: Run
    cost: Cost | None
    setting: dict[str, str]

    @property
    def system(self) -> str:
        """Class of the purifier."""
        return next(iter(self.run.manifest.get("systems", {})), "")

    @cached_property
    def lines(self) -> dict[str, Line]:
        """Accuracies by attack, `clean` first, worst cases last."""
        return {line.attack: line for line in Report((self.run,)).lines}

    @cached_property
    def papers(self) -> list[Nearest]:
        """The nearest published numbers, each with our attack beside it and with what differs between them."""
        return nearest(self.run, self.system)

    @property
    def missing(self) -> int:
        """Verdicts that the run still lacks."""
        return sum(missing_rows(self.run).values())


@dataclass(frozen=True)
class Comparison:
    """A table of purifiers.

    Args:
        contestants: The rows; undefended classifiers first.
        absent: Purifiers of which there is no run yet.
    """

    contestants: tuple[Contestant, ...]
    absent: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs of the rows."""
        return tuple(contestant.run for contestant in self.contestants)

    @cached_property
    def columns(self) -> list[str]:
        """Names of clean, attacks and worst cases."""
        return list(dict.fromkeys(name for contestant in self.contestants for name in contestant.lines))


def run_of(folder: Path, label: str, manifest: dict) -> Run:
    """The run in a folder, with or without records."""
    try:
        rows = read_rows(folder)
    except FileNotFoundError:
        rows = []
    return Run(folder, manifest, rows, label)


def read_comparison(output: str | Path, names: Iterable[str]) -> Comparison:
    """Read the runs of purifiers.

    Args:
        output: Folder of the comparison.
        names: Names of the purifiers, which are those of their folders.

    Raises:
        ValueError: If a file is damaged, or runs do not compare.
    """
    contestants, absent = [], []
    for name in names:
        folder = Path(output) / name
        manifest = read_manifest(folder)
        if manifest is None:
            absent.append(name)
        else:
            contestants.append(Contestant(run_of(folder, name, manifest), read_cost(folder), read_setting(folder)))
    check_comparison([contestant.run for contestant in contestants])
    contestants.sort(key=lambda contestant: contestant.system != "Identity")
    return Comparison(tuple(contestants), tuple(absent))


def check_comparison(runs: Sequence[Run]) -> None:
    """Refuse runs that cannot stand in one comparison.

    Raises:
        ValueError: If other images, seeds, headlines or attacks were used; the message names run and difference.
    """
    for run in runs[1:]:
        pair = [
            replace(one, manifest={k: v for k, v in one.manifest.items() if k not in MAY_DIFFER})
            for one in (runs[0], run)
        ]
        found = differences(pair)
        for name in dict.fromkeys((*runs[0].attacks, *run.attacks)):
            infos = [one.attacks.get(name) for one in (runs[0], run)]
            if None in infos:
                lacking, having = (runs[0], run) if infos[0] is None else (run, runs[0])
                found.append(f"{name}: an attack of {having.label} that {lacking.label} lacks")
                continue
            for key in MUST_AGREE:
                values = [getattr(info, key) for info in infos]
                if values[0] != values[1]:
                    found.append(f"{key} of {name}: {values[0]!r} in {runs[0].label}, {values[1]!r} in {run.label}")
        if found:
            raise ValueError(
                f"{run.label} does not compare with {runs[0].label}: {'; '.join(found)}. Purifiers of one comparison "
                "need the same images, seed, headline and attacks; use another `output` folder for other ones"
            )


def read_setting(folder: Path) -> dict[str, str]:
    """Classifier and score model of a run as its config.yaml describes them; empty without such a file."""
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        task = content["model"]["init_args"]
        purifier = task["purifier"].get("init_args") or {}
        found = {"classifier": described(task.get("classifier"), task.get("checkpoint"))}
        return found | ({"score model": described(purifier["score_model"])} if purifier.get("score_model") else {})
    except (FileNotFoundError, KeyError, TypeError, ValueError, AttributeError, RecursionError, yaml.YAMLError):
        return {}


def described(part: dict, checkpoint: str | None = None) -> str:
    """A network as a configuration gives it, "WideResNet(depth=10, ...) from net.safetensors"."""
    arguments = dict(part.get("init_args") or {})
    checkpoint = arguments.pop("checkpoint", None) or checkpoint
    listed = ", ".join(f"{k}={v}" for k, v in arguments.items() if isinstance(v, str | int | float) and v is not False)
    return f"{part['class_path'].rpartition('.')[2]}({listed})" + (f" from {checkpoint}" if checkpoint else "")
