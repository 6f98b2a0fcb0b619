"""From images to rows: attack the view, let the defence judge, say what came out. Knows neither Lightning nor a disk.

Iterative attacks run over all images at once in slots, as many as a batch has images: an image that is done makes room
for the next. All others get batches whole and always the same ones, because they may draw random numbers per batch.
Fresh noise follows the images, so that rows depend neither on order nor on interruptions or processes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lit_pursamere.attacks import Attack, IterativeAttack, Outcome
from lit_pursamere.attacks.base import Progress, silent
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion.image_noise import combine, image_keys, repeated_draws
from lit_pursamere.evaluation.judge import Verdict, distances, judge
from lit_pursamere.purifiers import Identity
from lit_pursamere.seeding import reseed
from lit_pursamere.store.records import CLEAN, Row

__all__ = ["UNDEFENDED", "Batch", "Evaluated", "Evaluation", "evaluate", "systems_of", "verdict_keys"]

UNDEFENDED = "undefended"  # the name of the classifier without the purifier

Batch = tuple[Tensor, Tensor, Tensor]  # images, classes, positions in the data set


def evaluate(
    defense: Defense,
    attacks: Mapping[str, Attack],
    x: Tensor,
    y: Tensor,
    *,
    index: Tensor | None = None,
    batch_size: int = 64,
    evaluations: int = 1,
    seed: int = 0,
    undefended: bool = False,
    dataset: str = "",
) -> list[Row]:
    """Attack images and let the defence judge them, with and without an attack.

        rows = evaluate(Defense(purifier, classifier), {"BPDA20": PGD(ThreatModel("linf", 8 / 255), "bpda")}, x, y)
        robust = [row["votes_any"] for row in rows if row["attack"] == "BPDA20"]

    Rows are those that `lit-pursamere test` records for these images with this seed and batch size, without the name
    of a run; nothing is written.

    Args:
        defense: What is attacked, and judges; its detector, if it has one, is calibrated.
        attacks: Attacks by name.
        x: Images (N, C, H, W) in [0, 1], on the device of the defence.
        y: True classes (N,), integers.
        index: Positions of the images in their data set (N,), integers, which fresh noise follows. None: 0..N-1.
        batch_size: Images per forward pass.
        evaluations: How often each verdict is given.
        seed: Seed of the fresh noise, and of attacks that draw random numbers per batch.
        undefended: Whether the classifier without the purifier is evaluated, too.
        dataset: Name of the data, for the rows.

    Returns:
        One dictionary per system (named by its purifier, and `undefended`), attack (first `clean`, for none) and image,
        in this order; `store.records` says what it holds.

    Raises:
        ValueError: If there are no images, x, y and index do not belong together, x leaves [0, 1], a label is no class,
            an index comes twice, an attack is named `clean` or wants a view that the defence does not have, or
            `batch_size` or `evaluations` is below 1.
        RuntimeError: If an attack leaves its budget or returns NaN.
    """
    index = torch.arange(len(x)) if index is None else index
    numbers = index.tolist()
    if not len(x) == len(y) == len(numbers) > 0:
        raise ValueError(f"evaluate needs images, and as many y and index; got {len(x)}, {len(y)} and {len(numbers)}")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"every image needs an index of its own; {len(numbers)} have only {len(set(numbers))}")
    evaluation = Evaluation(systems_of(defense, undefended), dict(attacks), dataset, batch_size, evaluations, seed)
    batches = list(zip(x.split(batch_size), y.split(batch_size), index.split(batch_size), strict=True))
    rows: list[Row] = []
    for system in evaluation.systems:
        clean: dict[int, object] = {}
        for name in (CLEAN, *attacks):
            parts = evaluation.verdicts(system, name, batches, clean)
            found = {row["index"]: row for part in parts for row in part.rows}
            if name == CLEAN:
                clean = {number: row["prediction_last"] for number, row in found.items()}
            rows += [found[number] for number in numbers]
    return rows


def systems_of(defense: Defense, undefended: bool = True) -> dict[str, Defense]:
    """The defence by the name of its purifier, and its classifier alone, if asked for and if that is another system."""
    purifier, surrogate = defense.purifier, defense.surrogate
    systems = {type(purifier).__name__: defense}
    if undefended and not isinstance(purifier, Identity):
        systems[UNDEFENDED] = Defense(Identity(), defense.classifier, surrogate=surrogate and Identity())
    return systems


def check(defense: Defense, attacks: Mapping[str, Attack]) -> None:
    """Refuse attacks that a defence cannot be evaluated with.

    Raises:
        ValueError: If one is called `clean`, or nothing that can be shown, or wants a view that the defence does not
            have.
    """
    if CLEAN in attacks:
        raise ValueError(f"an attack cannot be named {CLEAN!r}; the clean verdict is always part of an evaluation")
    for name in attacks:
        if not name.strip() or not name.isprintable() or "/" in name:
            raise ValueError(f"the attack {name!r} needs another name: some letters, without '/', which parts metrics")
    for attack in attacks.values():
        defense.view(attack.view)  # complains of one that it does not have


class Judged(NamedTuple):
    """Verdicts at the last iterate and at the worse of both candidates (None: not asked), and the images of the latter.

    `first_success` is that of the attack, completed by the verdict on the last iterate.
    """

    last: Verdict
    any: Verdict | None
    decisive: Tensor
    first_success: Tensor | None


class Evaluated(NamedTuple):
    """Images that are evaluated, B of them.

    `rows` are those of the images that were `wanted`, (B,) bool; `last` are the last iterates and `decisive` the images
    that the verdict `any` is about, (B, C, H, W).
    """

    rows: list[Row]
    batch: Batch
    wanted: Tensor
    last: Tensor
    decisive: Tensor


@dataclass(frozen=True)
class Evaluation:
    """What is evaluated, and how.

    Args:
        systems: Defences by name.
        attacks: Attacks by name; none may be called `clean`, which is the verdict on untouched images.
        dataset: Name of the data, for the rows.
        slots: Images per forward pass: the size of a batch.
        evaluations: How often each verdict is given.
        seed: Seed of the fresh noise, and of attacks that draw random numbers per batch.

    Raises:
        ValueError: If a number is below 1, an attack is called `clean`, or the first system lacks an attack's view.
    """

    systems: dict[str, Defense]
    attacks: dict[str, Attack]
    dataset: str
    slots: int
    evaluations: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.slots < 1 or self.evaluations < 1:
            raise ValueError(
                f"an evaluation needs at least 1 image per batch and 1 verdict; got {self.slots} and {self.evaluations}"
            )
        check(next(iter(self.systems.values())), self.attacks)

    def verdicts(
        self,
        system: str,
        name: str,
        batches: list[Batch],
        clean: Mapping[int, object],
        wanted: list[Tensor] | None = None,
        progress: Progress = silent,
    ) -> Iterator[Evaluated]:
        """Attack and judge images of batches.

        Args:
            system: Name of the defence.
            name: Name of the attack, or `clean`.
            batches: Images, classes and positions.
            clean: What the defence predicts on the untouched images, by position; not needed for `clean`.
            wanted: Of which images of each batch, (B,) bool, rows are asked for. None: of all.
            progress: Called with (steps done, steps in all).

        Yields:
            Images as soon as their verdicts are there: about as many as a batch has.
        """
        wanted = wanted or [torch.ones(len(y), dtype=torch.bool) for _, y, _ in batches]
        attacked = self._in_slots if isinstance(self.attacks.get(name), IterativeAttack) else self._in_batches
        since = time.monotonic()
        for batch, outcome, asked in attacked(system, name, batches, wanted, progress):
            judged = self._judge(system, name, outcome, batch)
            seconds, since = time.monotonic() - since, time.monotonic()
            rows = self._rows(system, name, batch, outcome, judged, clean, seconds)
            yield Evaluated(list(compress(rows, asked)), batch, asked, outcome.last, judged.decisive)

    def _in_slots(
        self, system: str, name: str, batches: list[Batch], wanted: list[Tensor], progress: Progress
    ) -> Iterator[tuple[Batch, Outcome, Tensor]]:
        attack: Any = self.attacks[name]  # by steps
        chosen = torch.cat(wanted)
        x, y, index = (torch.cat(column)[chosen.to(column[0].device)] for column in zip(*batches, strict=True))
        view, keys = self.systems[system].view(attack.view), image_keys(index, self.seed, system, name)
        for position, outcome in attack.in_slots(view, x, y, self.slots, progress, keys):
            batch = x[position], y[position], index[position.to(index.device)]
            yield batch, outcome, torch.ones(len(position), dtype=torch.bool)

    def _in_batches(
        self, system: str, name: str, batches: list[Batch], wanted: list[Tensor], progress: Progress
    ) -> Iterator[tuple[Batch, Outcome, Tensor]]:
        todo = [(batch, asked) for batch, asked in zip(batches, wanted, strict=True) if asked.any()]
        for i, (batch, asked) in enumerate(todo):

            def of_all(done: int, total: int, i: int = i) -> None:
                progress(i * total + done, len(todo) * total)

            x, y, index = batch
            if name == CLEAN:
                outcome = Outcome(x, x)
                of_all(0, 1)
            else:
                attack = self.attacks[name]
                with repeated_draws():  # the attack's own generator depends on the batch, and on nothing before it
                    reseed(*(image_keys(index, self.seed, system, name) & 0xFFFFFFFF).tolist())
                    outcome = attack(self.systems[system].view(attack.view), x, y, of_all)
            yield batch, outcome, asked

    def _judge(self, system: str, name: str, outcome: Outcome, batch: Batch) -> Judged:
        defense, attack, fooled = self.systems[system], self.attacks.get(name), outcome.first_success
        _, y, index = batch
        keys = verdict_keys(index, self.seed, system, name)
        last = judge(defense, outcome.last, y, self.evaluations, self.slots, keys["last"])
        if attack is None or (attack.view == "gray" and not isinstance(defense.purifier, Identity)):
            return Judged(last, None, outcome.last, fooled)
        if isinstance(attack, IterativeAttack) and fooled is not None:  # it did not ask about its last iterate
            fooled = torch.where((fooled < 0) & (last.prediction != y), attack.steps, fooled)
        worse, decisive = Verdict(*(value.clone() for value in last)), outcome.last.clone()
        # An image that is neither right nor rejected at the last iterate cannot get worse.
        asked = torch.nonzero((outcome.any != outcome.last).flatten(1).any(1) & (last.unfooled > 0)).flatten()
        if len(asked):
            found = judge(defense, outcome.any[asked], y[asked], self.evaluations, self.slots, keys["any"][asked.cpu()])
            votes, unfooled = last.votes[asked], last.unfooled[asked]
            fewer = (found.votes < votes) | ((found.votes == votes) & (found.unfooled < unfooled))
            for value, new in zip(worse, found, strict=True):
                value[asked[fewer]] = new[fewer]
            worse.unfooled[asked] = torch.minimum(unfooled, found.unfooled)  # the worse by either count
            decisive[asked[fewer]] = outcome.any[asked[fewer]]
        return Judged(last, worse, decisive, fooled)

    def _rows(
        self,
        system: str,
        name: str,
        batch: Batch,
        outcome: Outcome,
        judged: Judged,
        clean: Mapping[int, object],
        seconds: float,
    ) -> list[Row]:
        """One row per image, see `store.records` for what stands in it; `seconds` is the time of all of them."""
        x, y, index = batch
        numbers = index.tolist()
        on_clean = judged.last.prediction if name == CLEAN else [clean[number] for number in numbers]
        columns: dict[str, Any] = {"index": numbers, "label": y, "prediction_clean": on_clean}
        for key in ("prediction", "votes", "margin", "loss"):
            columns[f"{key}_last"] = getattr(judged.last, key)
            columns[f"{key}_any"] = None if judged.any is None else getattr(judged.any, key)
        columns |= {"first_success": judged.first_success, **distances(outcome.last, x, self.slots)}
        columns["moved"] = judged.last.moved
        if self.systems[system].detector is not None:
            columns |= {"statistic_last": judged.last.statistic, "rejected_last": judged.last.rejected}
            columns["unfooled_last"] = judged.last.unfooled
            columns["unfooled_any"] = None if judged.any is None else judged.any.unfooled
        lists = {key: listed(column, len(y)) for key, column in columns.items()}
        each = round(seconds / len(y), 4)
        same = {"evaluations": self.evaluations, "seconds": each, "seed": self.seed, "stored": None}
        return [
            {"dataset": self.dataset, "system": system, "attack": name}
            | {key: values[i] for key, values in lists.items()}
            | same
            for i in range(len(y))
        ]


def verdict_keys(index: Tensor, seed: int, system: str, attack: str) -> dict[str, Tensor]:
    """Keys of the noise at which images (B,) are judged after an attack, at the `last` iterate and at `any`."""
    keys = image_keys(index.cpu(), seed, system, attack)
    return {iterate: combine(keys, -step) for step, iterate in enumerate(("last", "any"), start=2)}


def listed(column: Tensor | list | None, count: int) -> list:
    """Entries of a column of rows; of numbers with a fraction six digits, for what lies beyond is rounding."""
    if column is None:
        return [None] * count
    if isinstance(column, Tensor) and column.is_floating_point():
        return [float(f"{value:.6g}") for value in column.tolist()]
    return column.tolist() if isinstance(column, Tensor) else column
