"""What a detector did: how many images it rejected, and how well its statistic tells attacked images from clean ones.

ROC: for every threshold, (share of clean images above it, share of attacked images above it); AUC: the area below
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.verdicts import CLEAN
from lit_pursamere.store.records import Row

__all__ = ["Detection", "detections"]


@dataclass(frozen=True)
class Detection:
    """A detector on the images of a system under one attack, all of them, whether the attack succeeded or not.

    Args:
        rejected: Share of rejected images.
        auc: Area under the ROC curve, in [0, 1]: the chance that an attacked image has a larger statistic than a clean
            one. None for clean images.
        curve: Points (false positive rate, true positive rate) of that curve.
        clean: Statistics of the clean images, and
        attacked: those of the attacked ones; none for clean images.
    """

    rejected: Accuracy
    auc: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    clean: tuple[float, ...] = ()
    attacked: tuple[float, ...] = ()


def detections(rows: Sequence[Row]) -> dict[tuple[str, str], Detection]:
    """What the detector did, by (system, attack); empty where there was none."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("statistic_last") is not None:
            found.setdefault((str(row["system"]), str(row["attack"])), []).append(row)
    return {
        (system, attack): _detection(members, () if attack == CLEAN else found.get((system, CLEAN), ()))
        for (system, attack), members in found.items()
    }


def _detection(attacked: Sequence[Row], clean: Sequence[Row]) -> Detection:
    rejected = Accuracy(float(sum(bool(row["rejected_last"]) for row in attacked)), len(attacked))
    if not clean:
        return Detection(rejected)
    from sklearn.metrics import roc_auc_score, roc_curve  # heavy, and needed where images were rejected alone

    values = [tuple(float(row["statistic_last"]) for row in rows) for rows in (clean, attacked)]
    truth, all_values = [0] * len(clean) + [1] * len(attacked), [*values[0], *values[1]]
    fpr, tpr, _ = roc_curve(truth, all_values)
    points = tuple(zip(fpr.tolist(), tpr.tolist(), strict=True))
    return Detection(rejected, float(roc_auc_score(truth, all_values)), points, *values)
