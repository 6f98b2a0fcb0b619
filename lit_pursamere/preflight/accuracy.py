"""Whether the classifier alone is right about clean images, or would be: behind a normalisation, with other labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from lit_pursamere.preflight.examined import Doubt, Examined, numbers
from lit_pursamere.preflight.usual import USUAL, per_channel
from lit_pursamere.report.paired import mcnemar

__all__ = ["accuracy"]

ENOUGH = 8  # images from which on an accuracy says anything
MOSTLY = 0.7  # of the images, that labels explain which are moved
SURE = 0.01  # of McNemar's test, below which a normalisation is better by more than chance


def accuracy(examined: Examined) -> list[Doubt]:
    """Doubts about clean images that the classifier gets wrong."""
    n, k = examined.logits.shape
    right = int(correct(examined.logits, examined.y).sum())
    if n < ENOUGH or mcnemar(n - right, 0) >= SURE:  # nothing can be better by more than chance
        return []
    said, chance = f"the classifier alone is right on {right} of {n} clean images", near_chance(right, n, k)
    if better := best(examined):
        return [Doubt(f"{said}, {better}", stops=chance)]
    if not chance:
        return []
    other = moved(examined)
    by_chance = f"as by chance ({n / k:.1f} with {k} classes)"
    return [Doubt(f"{said}, {by_chance}, {other or nothing_helps(examined)}", stops=other is not None)]


def correct(logits: Tensor, y: Tensor) -> Tensor:
    return logits.argmax(1) == y


def near_chance(right: int, n: int, k: int) -> bool:
    """Whether so many of n may be right by chance, where that can be told from a fair classifier."""
    limit = n / k + 2 * (n / k * (1 - 1 / k)) ** 0.5
    return right <= limit <= 2 * n / 3


def best(examined: Examined) -> str | None:
    """What to set so that most images are right, behind a normalisation or in front of one; None: nothing is better.

    Better is what wins images that are lost now, and loses so few that chance does not explain it (McNemar's test).
    """
    now, y, tried = correct(examined.logits, examined.y), examined.y, []
    for images, what in attempts(examined):
        logits = examined.ask(images)
        then = correct(logits, y)
        won, lost = int((then & ~now).sum()), int((now & ~then).sum())
        if logits.isfinite().all() and won > lost and mcnemar(won, lost) < SURE:
            tried.append((int(then.sum()), -float(F.cross_entropy(logits.float(), y)), what))
    if not tried:
        return None
    right, _, what = max(tried)
    return f"and on {right} {what}"


def attempts(examined: Examined) -> Iterator[tuple[Tensor, str]]:
    """The images behind every usual normalisation, and with it undone, and what to set if that helps."""
    x = examined.x
    for name in USUAL:
        if (values := per_channel(name, x)) is None:
            continue
        mean, std = values
        pair = ", ".join(numbers(part.flatten().expand(x.shape[1]).tolist()) for part in values)
        places = "`--normalise`, or mean and std of the network"
        if not examined.normalised:
            yield (x - mean) / std, f"behind the normalisation of {name}: set normalise=({pair}), {places}"
        undone = f"with the normalisation of {name} undone: it is done twice; leave out normalise, {places}"
        yield x * std + mean, undone


def moved(examined: Examined) -> str | None:
    """What to set if other labels explain the answers; None: none do."""
    answers, y, n = examined.logits.argmax(1), examined.y, len(examined.y)
    for step, mend in ((1, "y + 1"), (-1, "y - 1")):
        if (fit := int((answers == y + step).sum())) >= MOSTLY * n:
            return f"and {fit} answers are the label {'plus' if step > 0 else 'minus'} 1: give {mend}"
    named = {label: Counter(answers[y == label].tolist()).most_common(1)[0] for label in y.unique().tolist()}
    fit, others = sum(times for _, times in named.values()), n - len(named)  # the first of a class fits any number
    distinct = len({answer for answer, _ in named.values()}) == len(named)
    if not distinct or others < ENOUGH or fit - len(named) < MOSTLY * others:
        return None
    other = ", ".join(f"{examined.labels.name(label)} is answered {answer}" for label, (answer, _) in named.items()
                      if label != answer)  # fmt: skip
    return f"and {fit} answers fit other numbers of the classes ({other}): number the classes as the classifier does"


def nothing_helps(examined: Examined) -> str:
    also = (
        "and `normalise` undone or not does not help" if examined.normalised else "also behind the usual normalisations"
    )
    return (
        f"{also}: look at its weights, at `normalise`, at the numbers of the classes and at the order of the channels"
    )
