"""Notes below a comparison: what its numbers mean, in what its rows differ, and what papers report."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from lit_pursamere.report.comparison import Comparison
from lit_pursamere.report.nearest import Nearest
from lit_pursamere.report.notes import meaning
from lit_pursamere.report.report import WORST
from lit_pursamere.report.runs import flat, missing_rows

__all__ = ["comparison_notes", "paper_note"]


def comparison_notes(comparison: Comparison) -> list[str]:
    """Notes of a comparison, without its footnotes; those that say nothing here are left out."""
    runs = comparison.runs
    found = [_accuracies(comparison)] if runs else []
    found += _attacks(comparison) + _settings(comparison) + _costs(comparison)
    for contestant in comparison.contestants:
        if contestant.missing:
            parts = ", ".join(f"{attack}: {count}" for (_, attack), count in missing_rows(contestant.run).items())
            found.append(f"Incomplete: {contestant.run.label} lacks {contestant.missing} verdicts ({parts}).")
    if comparison.absent:
        found.append(f"Not evaluated yet: {', '.join(comparison.absent)}.")
    if comparison.absent or any(contestant.missing for contestant in comparison.contestants):
        found.append("The same `compare` command completes them.")
    if any(contestant.papers for contestant in comparison.contestants):
        found.append(
            "Published: clean / under the attack that leaves least, doubtful ones last, of the families that were "
            "run here; weights differ, and so does what the footnotes name."
        )
    return found


def paper_note(name: str, papers: list[Nearest]) -> str:
    """The footnote of a row: what papers report, where, all in which it differs from what stands beside it, doubts."""
    parts = []
    for attack, cell, differences in papers:
        clean = "" if cell.clean is None else f"{cell.clean:g} clean, "
        n = "" if cell.n is None else f"n = {cell.n}"
        where = ", ".join(part for part in (cell.source, cell.classifier, n) if part)
        doubt = [f"doubtful: {cell.doubtful}"] if cell.doubtful else []
        told = "; ".join([where, *differences.values(), *doubt])
        parts.append(f"{clean}{cell.robust:g} under {cell.attack} ({told}), beside {attack} here")
    return f"{name}: {'; '.join(parts)}."


def _accuracies(comparison: Comparison) -> str:
    runs = comparison.runs
    mean = _differing("verdicts per image", {run.label: run.manifest.get("evaluations", 1) for run in runs})
    return (
        f"Accuracy in % with 95 % Wilson intervals; {runs[0].data}, n = {runs[0].images}. {runs[0].success}: "
        f"{meaning(runs[0].success)}; {mean}. {WORST.capitalize()}: right on the clean image and under every attack."
    )


def _attacks(comparison: Comparison) -> list[str]:
    """Budgets, and what attacks of one name do otherwise for some purifiers."""
    runs = comparison.runs
    if not runs:
        return []
    budgets: dict[str, list[str]] = {}
    for name, info in runs[0].attacks.items():
        budgets.setdefault(info.budget or "no budget", []).append(name)
    parts = [budget if len(budgets) == 1 else f"{budget} ({', '.join(names)})" for budget, names in budgets.items()]
    for name in runs[0].attacks:
        settings = {run.label: flat(run.attacks[name].settings) for run in runs}
        for key in dict.fromkeys(key for values in settings.values() for key in values):
            values = {label: str(values.get(key, "none")) for label, values in settings.items()}
            if len(set(values.values())) > 1:
                parts.append(f"{name}: {_differing(key, values)}")
    return [f"Attacks: {'; '.join(parts)}."] if parts else []


def _settings(comparison: Comparison) -> list[str]:
    keys = dict.fromkeys(key for contestant in comparison.contestants for key in contestant.setting)
    parts = []
    for key in keys:
        values = {c.run.label: c.setting[key] for c in comparison.contestants if key in c.setting}
        parts.append(_differing(key, values))
    return [f"Here: {'; '.join(parts)}."] if parts else []


def _costs(comparison: Comparison) -> list[str]:
    costs = {c.run.label: c.cost for c in comparison.contestants if c.cost is not None}
    if not costs:
        return []
    machines = {
        label: f"{cost.device}, threads {cost.threads}, batches of {cost.images}" for label, cost in costs.items()
    }
    return [
        "Network calls: images that go through the score model for one answer about one image, + gradients that come "
        "back; in brackets the same of other networks in the purifier. s/image: the purification for an answer; "
        f"{_differing('measured on', machines)}. Deterministic: a second one gave the same images bit for bit."
    ]


def _differing(what: str, values: Mapping[str, Hashable]) -> str:
    """What all have, and who has something else: "eot 4, but 1 for PurSAMERE, MagNet"."""
    groups: dict[Hashable, list[str]] = {}
    for label, value in values.items():
        groups.setdefault(value, []).append(label)
    (common, _), *others = sorted(groups.items(), key=lambda group: -len(group[1]))
    return f"{what} {common}" + "".join(f", but {value} for {', '.join(labels)}" for value, labels in others)
