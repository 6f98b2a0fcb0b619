"""Notes of a comparison on its runs: in what attacks differ, what was purified and classified with, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from lit_pursamere.report.notes import with_exceptions
from lit_pursamere.report.runs import AttackInfo, Run, flat

__all__ = ["attack_notes", "missing_notes", "network_notes"]

TRAINED = "lit_pursamere.weights.trained"  # a network with its weights


def attack_notes(runs: Sequence[Run]) -> list[str]:
    """Budgets and steps, and what attacks of one name do otherwise for some purifiers."""
    attacks: dict[str, AttackInfo] = {}
    for run in sorted(runs, key=lambda run: -len(run.attacks)):
        for name, info in run.attacks.items():
            attacks.setdefault(name, info)
    parts = sorted_by("", {name: info.budget or "no budget" for name, info in attacks.items()})
    steps = sorted_by("steps ", {name: info.steps for name, info in attacks.items() if info.steps})
    parts += steps if len(steps) > 1 else []
    lacking = {run.label: ", ".join(name for name in attacks if name not in run.attacks) for run in runs}
    parts += [f"{label} without {names}" for label, names in lacking.items() if names]
    for name in attacks:
        settings = {run.label: flat(run.attacks[name].settings) for run in runs if name in run.attacks}
        for key in dict.fromkeys(key for values in settings.values() for key in values):
            values = {label: str(values.get(key, "none")) for label, values in settings.items()}
            if len(set(values.values())) > 1:
                parts.append(f"{name}: {with_exceptions(key, values)}")
    return [f"Attacks: {'; '.join(parts)}."] if parts else []


def sorted_by(what: str, values: Mapping[str, object]) -> list[str]:
    """Each value once, with the names that have it if there are several: "linf 0.3 (PGD, MIM)"."""
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(f"{what}{value}", []).append(name)
    return [value if len(names) == 1 else f"{value} ({', '.join(having)})" for value, having in names.items()]


def network_notes(runs: Sequence[Run]) -> list[str]:
    """Classifiers and score models, as far as the configurations of the runs tell."""
    networks = {run.label: _networks(run) for run in runs}
    parts = []
    for key in ("classifier", "score model"):
        values = {label: found[key] for label, found in networks.items() if key in found}
        if values:
            parts.append(with_exceptions(key, values))
    return [f"Here: {'; '.join(parts)}."] if parts else []


def missing_notes(runs: Sequence[Run], absent: Sequence[str]) -> list[str]:
    """What is not evaluated yet, and how it will be."""
    found = []
    for run in runs:
        if run.missing:
            parts = ", ".join(f"{attack}: {count}" for (_, attack), count in run.missing.items())
            found.append(f"Incomplete: {run.label} lacks {sum(run.missing.values())} verdicts ({parts}).")
    if absent:
        found.append(f"Not evaluated yet: {', '.join(absent)}.")
    return [*found, "The same `compare` command completes them."] if found else []


def _networks(run: Run) -> dict[str, str]:
    """Classifier and score model of a run, as its config.yaml describes them; empty without such a file."""
    try:
        content = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
        task = content["model"]["init_args"]
        found = {"classifier": _described(task["classifier"])}
        own = task["purifier"].get("init_args") or {}
        score_model = own["score_model"] if "score_model" in own else task.get("score_model")
        if score_model and run.purifier(run.system).get("score_model"):
            found["score model"] = _described(score_model)
        return found
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError, yaml.YAMLError):
        return {}


def _described(part: dict) -> str:
    """A network as a configuration gives it, "WideResNet(depth=10, ...) from net.safetensors"."""
    arguments = dict(part.get("init_args") or {})
    checkpoint = arguments.pop("checkpoint", None)
    if part["class_path"] == TRAINED:
        part = arguments.pop("network")
        arguments = (part.get("init_args") or {}) | arguments
    listed = ", ".join(f"{k}={v}" for k, v in arguments.items() if isinstance(v, str | int | float) and v is not False)
    return f"{part['class_path'].rpartition('.')[2]}({listed})" + (f" from {checkpoint}" if checkpoint else "")
