"""From images to rows: attack the view, let the defence judge, write down what came out. Knows nothing of Lightning.

Iterative attacks run over all images at once in slots, as many as a batch has images: an image that is done makes room
for the next. All others get the loader's batches, whole and always the same ones, because they may draw random numbers
per batch. Fresh noise follows the images, so that rows depend neither on order nor on interruptions or processes. Rows
are on disk as soon as a batch of images is done, so a run that is killed loses little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_pursamere.attacks import Attack, IterativeAttack, Outcome
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion.image_noise import image_keys, repeated_draws, stepped
from lit_pursamere.evaluation.judge import Verdict, distances, judge
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import Identity
from lit_pursamere.seeding import reseed, run_seed
from lit_pursamere.store import Records
from lit_pursamere.store.images import ImageStore
from lit_pursamere.store.records import CLEAN

__all__ = ["Batch", "Evaluation", "verdict_keys"]

Batch = tuple[Tensor, Tensor, Tensor]  # images, classes, positions in the data set


class Judged(NamedTuple):
    """Verdicts at the last iterate and at the worse of both candidates (None: not asked), and the images of the latter.

    `first_success` is that of the attack, completed by the verdict on the last iterate.
    """

    last: Verdict
    any: Verdict | None
    decisive: Tensor
    first_success: Tensor | None


@dataclass
class Evaluation:
    """Completes the records of images that it is given.

    Args:
        systems: Defences by name.
        attacks: Attacks by name.
        dataset: Name of the data, for the rows.
        slots: Images per forward pass: the loader's batch size.
        evaluations: How often each verdict is given.
        records: What is done, and where more is written.
        progress: Counts rows.
        store: Keeps the images of the rows (None: nobody does).
        attacked: Called with system, attack, batch and last iterates.
        stop: Called now and then; may raise.
    """

    systems: dict[str, Defense]
    attacks: dict[str, Attack]
    dataset: str
    slots: int
    evaluations: int
    records: Records
    progress: Progress
    store: ImageStore | None = None
    attacked: Callable[[str, str, Batch, Tensor], None] = lambda system, attack, batch, images: None
    stop: Callable[[], None] = lambda: None

    def complete(self, system: str, name: str, batches: list[Batch]) -> None:
        """Attack and judge those images of batches of which there are no rows yet; `clean` comes before any attack."""
        lacks = [torch.tensor([self._lacks(system, name, i) for i in index.tolist()]) for _, _, index in batches]
        left = int(sum(lack.sum() for lack in lacks))
        self.progress.advance(sum(map(len, lacks)) - left, skipped=True)
        self.since = time.monotonic()
        self.stop()
        if not left:
            return
        with self.progress.inside(f"{system} {name}", "step") as steps:

            def progress(done: int, total: int) -> None:
                self.stop()
                steps(done, total)

            run = self._in_slots if isinstance(self.attacks.get(name), IterativeAttack) else self._in_batches
            run(system, name, batches, lacks, progress)

    def _lacks(self, system: str, name: str, index: int) -> bool:
        return self.records.get(system, name, index) is None

    def _in_slots(
        self, system: str, name: str, batches: list[Batch], lacks: list[Tensor], progress: Callable[[int, int], None]
    ) -> None:
        attack, wanted = self.attacks[name], torch.cat(lacks)
        x, y, index = (torch.cat(column)[wanted.to(column[0].device)] for column in zip(*batches, strict=True))
        view, keys = self.systems[system].view(attack.view), image_keys(index, run_seed(), system, name)
        for position, outcome in attack.in_slots(view, x, y, self.slots, progress, keys):
            batch = x[position], y[position], index[position.to(index.device)]
            self._record(system, name, batch, outcome, torch.ones(len(position), dtype=torch.bool))

    def _in_batches(
        self, system: str, name: str, batches: list[Batch], lacks: list[Tensor], progress: Callable[[int, int], None]
    ) -> None:
        todo = [(batch, lack) for batch, lack in zip(batches, lacks, strict=True) if lack.any()]
        for i, (batch, lack) in enumerate(todo):

            def of_all(done: int, total: int, i: int = i) -> None:
                progress(i * total + done, len(todo) * total)

            x, y, index = batch
            if name == CLEAN:
                outcome = Outcome(x, x)
                of_all(0, 1)
            else:
                attack = self.attacks[name]
                with repeated_draws():  # the attack's own generator depends on the batch, and on nothing before it
                    reseed(*(image_keys(index, run_seed(), system, name) & 0xFFFFFFFF).tolist())
                    outcome = attack(self.systems[system].view(attack.view), x, y, of_all)
            self._record(system, name, batch, outcome, lack)

    def _record(self, system: str, name: str, batch: Batch, outcome: Outcome, lack: Tensor) -> None:
        """Judge attacked images and write the rows that are lacking, (B,); images are on disk before their rows."""
        judged = self._judge(system, name, outcome, batch)
        rows = self._rows(system, name, batch, outcome, judged)
        rows = [row for row, wanted in zip(rows, lack.tolist(), strict=True) if wanted]
        if self.store is not None:
            where = lack.to(outcome.last.device)
            places = self.store.append(outcome.last[where], judged.decisive[where])
            rows = [row | {"stored": place} for row, place in zip(rows, places, strict=True)]
        self.records.append(rows)
        self.progress.advance(len(rows))
        self.attacked(system, name, batch, outcome.last)

    def _judge(self, system: str, name: str, outcome: Outcome, batch: Batch) -> Judged:
        defense, attack, fooled = self.systems[system], self.attacks.get(name), outcome.first_success
        _, y, index = batch
        keys = verdict_keys(index, run_seed(), system, name)
        last = judge(defense, outcome.last, y, self.evaluations, self.slots, keys["last"])
        if attack is None or (attack.view == "gray" and not isinstance(defense.purifier, Identity)):
            return Judged(last, None, outcome.last, fooled)
        if isinstance(attack, IterativeAttack):  # it did not ask about its last iterate
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

    def _rows(self, system: str, name: str, batch: Batch, outcome: Outcome, judged: Judged) -> list[dict]:
        """One row per image, see `results.records` for what stands in it."""
        x, y, index = batch
        seconds, self.since = time.monotonic() - self.since, time.monotonic()
        numbers = index.tolist()
        clean = judged.last.prediction.tolist() if name == CLEAN else [
            self.records.get(system, CLEAN, number)["prediction_last"] for number in numbers
        ]  # fmt: skip
        columns = {"index": numbers, "label": y, "prediction_clean": clean}
        for key in ("prediction", "votes", "margin", "loss"):
            columns[f"{key}_last"] = getattr(judged.last, key)
            columns[f"{key}_any"] = None if judged.any is None else getattr(judged.any, key)
        columns |= {"first_success": judged.first_success, **distances(outcome.last, x, self.slots)}
        columns["moved"] = judged.last.moved
        if self.systems[system].detector is not None:
            columns |= {"statistic_last": judged.last.statistic, "rejected_last": judged.last.rejected}
            columns["unfooled_last"] = judged.last.unfooled
            columns["unfooled_any"] = None if judged.any is None else judged.any.unfooled
        same = {
            "evaluations": self.evaluations,
            "seconds": round(seconds / len(y), 4),
            "seed": run_seed(),
            "stored": None,
        }
        lists = {key: listed(column, len(y)) for key, column in columns.items()}
        return [
            {"dataset": self.dataset, "system": system, "attack": name}
            | {key: values[i] for key, values in lists.items()}
            | same
            for i in range(len(y))
        ]


def verdict_keys(index: Tensor, seed: int, system: str, attack: str) -> dict[str, Tensor]:
    """Keys of the noise at which images (B,) are judged after an attack, at the `last` iterate and at `any`."""
    keys = image_keys(index.cpu(), seed, system, attack)
    return {iterate: stepped(keys, -step) for step, iterate in enumerate(("last", "any"), start=2)}


def listed(column: Tensor | list | None, count: int) -> list:
    """Entries of a column of rows; of numbers with a fraction six digits, for what lies beyond is rounding."""
    if column is None:
        return [None] * count
    if isinstance(column, Tensor) and column.is_floating_point():
        return [float(f"{value:.6g}") for value in column.tolist()]
    return column.tolist() if isinstance(column, Tensor) else column
