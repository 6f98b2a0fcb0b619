"""Whether the labels are classes of the logits, and whether the sample has as many of them as it should."""

from __future__ import annotations

from lit_pursamere.preflight.examined import Doubt, Examined

__all__ = ["classes"]

ENOUGH = 8  # images from which on a lack of classes is no chance
SHOWN = 4


def classes(examined: Examined) -> list[Doubt]:
    """Doubts about the classes of all images."""
    labels, k = examined.labels, examined.logits.shape[1]
    present = sorted(set(labels.all))
    if present[0] < 0 or present[-1] >= k:
        worst = present[0] if present[0] < 0 else present[-1]
        from_one = present[0] >= 1 and present[-1] == k
        mend = "they begin at 1: give y - 1" if from_one else "take the labels, or the classifier, of the other"
        return [Doubt(f"label {worst} is no class: the classifier tells {k} apart, 0 to {k - 1}; {mend}", stops=True)]
    found = []
    if len(labels.names) not in (0, k):
        found.append(
            f"the data has {len(labels.names)} classes and the classifier {k} logits: look whether class "
            f"{labels.name(0)} of the data is class 0 of the classifier, and so on"
        )
    n = len(labels.all)
    expected = k * (1 - (1 - 1 / k) ** n)  # of n images that are drawn from equal classes
    if n >= ENOUGH and len(present) < expected / 2:
        some = ", ".join(labels.name(label) for label in present[:SHOWN])
        what = "one class" if len(present) == 1 else f"{len(present)} classes"
        found.append(
            f"the {n} images are of {what} out of {k} ({some}{', ...' if len(present) > SHOWN else ''}): the first of "
            "a sorted set? Choose them at random (`data.test_seed`)"
        )
    return [Doubt(what) for what in found]
