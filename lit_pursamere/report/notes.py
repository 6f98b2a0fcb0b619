"""Notes below a table: what its numbers mean, what is missing, and what does not compare."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from lit_pursamere.report.lines import WORST, Line
from lit_pursamere.report.paired import Pair, same_images
from lit_pursamere.report.runs import Run
from lit_pursamere.report.verdicts import CLEAN, OR_REJECTED, components

__all__ = [
    "INTERVAL_NAMES",
    "WORST_NOTE",
    "detection_notes",
    "explanation",
    "gathered",
    "incomplete",
    "meaning",
    "other_weights",
    "pair_notes",
    "semantics",
    "with_exceptions",
]

INTERVAL_NAMES = {"wilson": "Wilson", "clopper-pearson": "Clopper-Pearson"}
ITERATES = {
    "last": "wrong at the last iterate counts as broken",
    "any": "wrong at any iterate counts as broken (gray attacks: at the last)",
}
VERDICTS = {" worst": ", right means right in every evaluation", " vote": ", right means right by majority vote"}
READINGS = {OR_REJECTED: ", a rejected attacked image counts as right and a rejected clean one as wrong"}
WORST_NOTE = f"{WORST.capitalize()}: right on the clean image and under every attack."


def meaning(success: str, mean: str = "") -> str:
    """What one of SEMANTICS counts, in words.

    Args:
        success: The semantics.
        mean: What to say of a mean over evaluations.
    """
    iterate, verdict, reading = components(success)
    return f"{ITERATES[iterate]}{VERDICTS.get(verdict, mean)}{READINGS.get(reading, '')}"


def explanation(runs: Sequence[Run], interval: str) -> str:
    """What the numbers are, and of which images if all runs have the same."""
    data = {run.data for run in runs}
    where = f"; {data.pop()}" if len(data) == 1 and "" not in data else ""
    return f"Accuracy in % with 95 % {INTERVAL_NAMES[interval]} intervals{where}"


def semantics(runs: Sequence[Run]) -> str:
    """What the headlines of runs with attacks count; empty if there are none."""
    parts = []
    runs = [run for run in runs if run.attacks]
    successes = dict.fromkeys(run.success for run in runs)
    for success in successes:
        members = [run for run in runs if run.success == success]
        where = f" ({', '.join(run.label for run in members)})" if len(successes) > 1 else ""
        evaluations = max(run.evaluations for run in members)
        mean = f", mean of {evaluations} evaluations" if evaluations > 1 else ""
        parts.append(f"{success}{where}: {meaning(success, mean)}.")
    return " ".join([*parts, WORST_NOTE] if runs else []).strip()


def detection_notes(lines: Sequence[Line]) -> list[str]:
    """What the columns of a detector count, if there was one."""
    if not any(line.detection for line in lines):
        return []
    return [
        "Rejected images count as wrong; `or rejected` counts attacked ones as right, only clean ones as wrong. "
        "Rejected and AUC: at the last iterate; AUC of the detector's statistic, attacked against clean images, "
        "successful or not."
    ]


def other_weights(runs: Sequence[Run]) -> list[str]:
    """Systems that go by one name and one description in two runs, but not by one set of weights."""
    found: list[str] = []
    seen: dict[tuple[str, str], tuple[Run, object]] = {}
    for run in runs:
        for name, digest in run.manifest.get("weights", {}).items():
            first, other = seen.setdefault((name, run.description(name)), (run, digest))
            if other != digest:
                found.append(f"`{name}` has other weights in {run.label} than in {first.label}.")
    return found


def gathered(subjects: Mapping[str, Sequence[str]]) -> list[str]:
    """Sentences that are about several, once: "Caution: ADP, DiffPure: ..."; an empty subject is left out."""
    found = []
    for text, names in subjects.items():
        about = ", ".join(name for name in dict.fromkeys(names) if name)
        found.append(f"Caution: {about}{': ' if about else ''}{text}.")
    return found


def pair_notes(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[str]:
    """What a paired comparison with the first run says, and with which runs there is none."""
    found = []
    if pairs:
        others = ", ".join(dict.fromkeys(pair.second for pair in pairs))
        found.append(
            f"Paired: {others} less {runs[0].label} on the same images, in points with 95 % intervals (Newcombe, 1998, "
            "method 10); only: images that one alone gets right; p: McNemar's exact test, two-sided, for each line "
            "alone. Worst case: over the attacks that both have; several verdicts count by majority."
        )
    if foreign := [run.label for run in runs[1:] if not same_images(runs[0], run)]:
        found.append(f"Not paired: {', '.join(foreign)}, of other images than {runs[0].label}.")
    return found


def incomplete(run: Run, several: bool) -> list[str]:
    """Which verdicts a run lacks, if it lacks any.

    Args:
        run: The run.
        several: Whether the note must name it.
    """
    if not run.missing:
        return []
    total = run.images * len(run.systems) * len((CLEAN, *run.attacks))
    parts = ", ".join(f"{system} under {attack}: {count}" for (system, attack), count in run.missing.items())
    where = f" in {run.label}" if several else ""
    return [
        f"Incomplete{where}: {sum(run.missing.values())} of {total} verdicts are missing ({parts}); the same `test` "
        "command completes them."
    ]


def with_exceptions(what: str, values: Mapping[str, Hashable]) -> str:
    """What most have, and who has something else: "eot 4, but 1 for PurSAMERE, MagNet"."""
    groups: dict[Hashable, list[str]] = {}
    for label, value in values.items():
        groups.setdefault(value, []).append(label)
    (common, _), *others = sorted(groups.items(), key=lambda group: -len(group[1]))
    return f"{what} {common}" + "".join(f", but {value} for {', '.join(labels)}" for value, labels in others)
