"""From rows to accuracies: what counts as right, per attack and in the worst case over attacks.

last   verdict at the attack's final iterate: what most published tables report
any    wrong at any visited iterate counts as broken: what a deterministic defence must survive

Where verdicts were given more than once, `last` and `any` are means over the evaluations, and beside them stand

worst  right at every evaluation      vote  right at more than half of them

An attack that does not see the purifier (`gray`), and a clean image, are judged at the last iterate only.

What a detector rejects is wrong in all of these: right means right and accepted. `last or rejected`, `any vote or
rejected` and so on count an attacked image that is rejected as right, and only a clean one as wrong (Srinivasan et al.,
2021, Fig. 6b-d; Tramer, 2022, "Detecting Adversarial Examples Is (Nearly) As Hard As Classifying Them").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.store.records import CLEAN, Row

__all__ = [
    "CLEAN",
    "OR_REJECTED",
    "SEMANTICS",
    "Table",
    "accuracies",
    "components",
    "judged",
    "mean_seconds",
    "other_reading",
    "share",
    "stand_ins",
    "worst_cases",
]

OR_REJECTED = " or rejected"
SEMANTICS = tuple(
    f"{iterate}{verdict}{reading}"
    for reading in ("", OR_REJECTED)
    for iterate in ("last", "any")
    for verdict in ("", " worst", " vote")
)
Table = dict[tuple[str, str, str], Accuracy]  # (system, attack, semantics) -> accuracy


def components(semantics: str) -> tuple[str, str, str]:
    """Iterate, verdict and reading of one of SEMANTICS: ("any", " vote", " or rejected"), ("last", "", "")."""
    plain = semantics.removesuffix(OR_REJECTED)
    iterate, space, verdict = plain.partition(" ")
    return iterate, space + verdict, semantics.removeprefix(plain)


def other_reading(semantics: str) -> str:
    """The same semantics with rejected attacked images counted the other way."""
    iterate, verdict, reading = components(semantics)
    return f"{iterate}{verdict}{'' if reading else OR_REJECTED}"


def stand_ins(semantics: str) -> list[str]:
    """One of SEMANTICS, and what replaces it where it was not judged, the nearest first.

    Without a detector nothing is rejected, gray attacks and clean images are judged at the last iterate only, and of a
    single evaluation the mean is also the worst and the vote.
    """
    iterate, verdict, reading = components(semantics)
    found = [f"{i}{v}{r}" for r in (reading, "") for i in (iterate, "last") for v in (verdict, "")]
    return list(dict.fromkeys(found))


def judged(rows: Sequence[Row]) -> tuple[str, ...]:
    """Those of SEMANTICS that can differ on these rows: verdicts of several evaluations, readings of a detector."""
    repeated = any(row["evaluations"] > 1 for row in rows)
    detected = any("unfooled_last" in row for row in rows)
    return tuple(s for s in SEMANTICS if (repeated or not components(s)[1]) and (detected or not components(s)[2]))


def share(row: Row, semantics: str) -> float | None:
    """How right an image is, in [0, 1], or None where it was not judged.

    Args:
        row: One record, with `evaluations`, the right ones of them, `votes_last` and `votes_any`, and with a detector
            those that were right or rejected, `unfooled_last` and `unfooled_any`.
        semantics: One of SEMANTICS.
    """
    iterate, verdict, reading = components(semantics)
    spared = reading and row["attack"] != CLEAN and "unfooled_last" in row
    votes, evaluations = row.get(f"{'unfooled' if spared else 'votes'}_{iterate}"), row["evaluations"]
    if votes is None:
        return None
    if verdict == " worst":
        return float(votes == evaluations)
    return float(2 * votes > evaluations) if verdict == " vote" else votes / evaluations


def accuracies(rows: Sequence[Row]) -> Table:
    """Accuracy for every system, attack and success semantics (`last`, `any worst`, ...) that the rows hold."""
    shares: dict[tuple[str, str, str], list[float]] = {}
    wanted = judged(rows)
    for row in rows:
        for semantics in wanted:
            if (value := share(row, semantics)) is not None:
                shares.setdefault((str(row["system"]), str(row["attack"]), semantics), []).append(value)
    return {key: _accuracy(values) for key, values in shares.items()}


def worst_cases(rows: Sequence[Row], attacks: Iterable[str], success: str) -> dict[str, Accuracy]:
    """Accuracy of every system where an image counts only as far as it is right clean and under every attack.

    The clean image belongs to every budget, so it is one of the candidates. Where verdicts are means over evaluations,
    an image counts with its least mean. An image that some attack has not reached yet does not enter.

    Args:
        rows: Records of one evaluation.
        attacks: Names of the attacks that count.
        success: One of SEMANTICS.

    Returns:
        An accuracy by system; a system without a complete image is left out.
    """
    needed = {CLEAN, *attacks}
    found: dict[tuple[str, int], dict[str, float]] = {}
    for row in rows:
        if row["attack"] not in needed:
            continue
        value = share(row, success)
        if value is None:  # a gray attack or the clean image
            value = share(row, success.replace("any", "last"))
        if value is not None:
            found.setdefault((str(row["system"]), int(row["index"])), {})[str(row["attack"])] = value
    least: dict[str, list[float]] = {}
    for (system, _), values in found.items():
        if len(values) == len(needed):
            least.setdefault(system, []).append(min(values.values()))
    return {system: _accuracy(values) for system, values in least.items()}


def mean_seconds(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Mean seconds per image of every (system, attack), attack and verdicts together; where they were noted."""
    times: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.get("seconds") is not None:
            times.setdefault((str(row["system"]), str(row["attack"])), []).append(float(row["seconds"]))
    return {key: sum(values) / len(values) for key, values in times.items()}


def _accuracy(shares: Sequence[float]) -> Accuracy:
    return Accuracy(sum(shares), len(shares))
