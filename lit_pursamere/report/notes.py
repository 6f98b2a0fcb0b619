"""Notes below a table: what its numbers mean, what is missing, and what does not compare."""

from __future__ import annotations

from lit_pursamere.report.report import WORST, Report
from lit_pursamere.report.runs import Run, differences, missing_rows
from lit_pursamere.report.verdicts import CLEAN, OR_REJECTED, components

__all__ = ["meaning", "notes"]

INTERVAL_NAMES = {"wilson": "Wilson", "clopper-pearson": "Clopper-Pearson"}
ITERATES = {
    "last": "wrong at the last iterate counts as broken",
    "any": "wrong at any iterate counts as broken (gray attacks: at the last)",
}
VERDICTS = {" worst": ", right means right in every evaluation", " vote": ", right means right by majority vote"}
READINGS = {OR_REJECTED: ", a rejected attacked image counts as right and a rejected clean one as wrong"}


def meaning(success: str, mean: str = "") -> str:
    """What one of SEMANTICS counts, in words.

    Args:
        success: The semantics.
        mean: What to say of a mean over evaluations.
    """
    iterate, verdict, reading = components(success)
    return f"{ITERATES[iterate]}{VERDICTS.get(verdict, mean)}{READINGS.get(reading, '')}"


def notes(report: Report) -> list[str]:
    """Notes of a report, without its footnotes; the first explains the numbers, others stand only where needed."""
    explanation = f"Accuracy in % with 95 % {INTERVAL_NAMES[report.interval]} intervals"
    places = {run.data for run in report.runs}
    if len(places) == 1 and "" not in places:
        explanation += f"; {places.pop()}"
    found = [f"{explanation}. {_semantics(report)}"]
    if any(line.detection for line in report.lines):
        found.append(
            "Rejected images count as wrong; `or rejected` counts attacked ones as right, only clean ones as wrong. "
            "Rejected and AUC: at the last iterate; AUC of the detector's statistic, attacked against clean images, "
            "successful or not."
        )
    if any(line.paper_value is not None for line in report.lines):
        found.append("Published numbers come from the papers' own weights, images and judging.")
    if differing := differences(report.runs):
        found.append(f"These runs differ in more than systems and attacks: {'; '.join(differing)}.")
    found += _other_weights(report)
    return found + [note for run in report.runs for note in _incomplete(run, report.several)]


def _semantics(report: Report) -> str:
    parts = []
    runs = [run for run in report.runs if run.attacks]
    successes = dict.fromkeys(run.success for run in runs)
    for success in successes:
        members = [run for run in runs if run.success == success]
        where = f" ({', '.join(run.label for run in members)})" if len(successes) > 1 else ""
        evaluations = max(run.evaluations for run in members)
        mean = f", mean of {evaluations} evaluations" if evaluations > 1 else ""
        parts.append(f"{success}{where}: {meaning(success, mean)}.")
    if runs:
        parts.append(f"{WORST.capitalize()}: right on the clean image and under every attack.")
    return " ".join(parts).strip()


def _other_weights(report: Report) -> list[str]:
    """Systems that go by one name and one description in two runs, but not by one set of weights."""
    found: list[str] = []
    seen: dict[tuple[str, str], tuple[Run, object]] = {}
    for run in report.runs:
        for name, digest in run.manifest.get("weights", {}).items():
            first, other = seen.setdefault((name, run.description(name)), (run, digest))
            if other != digest:
                found.append(f"`{name}` has other weights in {run.label} than in {first.label}.")
    return found


def _incomplete(run: Run, several: bool) -> list[str]:
    missing = missing_rows(run)
    if not missing:
        return []
    total = (run.images or 0) * len(run.systems) * len((CLEAN, *run.attacks))
    parts = ", ".join(f"{system} under {attack}: {count}" for (system, attack), count in missing.items())
    where = f" in {run.label}" if several else ""
    return [
        f"Incomplete{where}: {sum(missing.values())} of {total} verdicts are missing ({parts}); the same `test` "
        "command completes them."
    ]
