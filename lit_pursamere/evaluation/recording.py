"""An evaluation that goes on where it stopped: rows are on disk as soon as their images are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lit_pursamere.evaluation.evaluation import Batch, Evaluated, Evaluation
from lit_pursamere.progress import Progress
from lit_pursamere.store import Records
from lit_pursamere.store.images import ImageStore
from lit_pursamere.store.records import CLEAN

__all__ = ["RecordedEvaluation"]


@dataclass(frozen=True)
class RecordedEvaluation:
    """Completes the records of images that it is given.

    Args:
        evaluation: What is evaluated, and how.
        records: What is done, and where more is written.
        progress: Counts rows.
        store: Keeps the images of the rows (None: nobody does).
    """

    evaluation: Evaluation
    records: Records
    progress: Progress
    store: ImageStore | None = None

    def complete(self, system: str, name: str, batches: list[Batch]) -> Iterator[Evaluated]:
        """Attack and judge those images of batches of which there are no rows yet; `clean` comes before any attack.

        Args:
            system: Name of the defence.
            name: Name of the attack, or `clean`.
            batches: Images, classes and positions.

        Yields:
            Images whose rows have just been written.
        """
        lacks = [torch.tensor([self.records.get(system, name, i) is None for i in index.tolist()])
                 for _, _, index in batches]  # fmt: skip
        left = int(sum(lack.sum() for lack in lacks))
        self.progress.advance(sum(map(len, lacks)) - left, skipped=True)
        if not left:
            return
        with self.progress.inside(f"{system} {name}", "step") as steps:
            clean = {} if name == CLEAN else self._clean(system, batches)
            for part in self.evaluation.verdicts(system, name, batches, clean, lacks, steps):
                self._record(part)
                yield part

    def _clean(self, system: str, batches: list[Batch]) -> dict[int, object]:
        """What the system predicts on the untouched images, by position."""
        numbers = [number for _, _, index in batches for number in index.tolist()]
        return {number: self.records.rows[system, CLEAN, number]["prediction_last"] for number in numbers}

    def _record(self, part: Evaluated) -> None:
        """Write the rows; images are on disk before their rows."""
        rows = part.rows
        if self.store is not None:
            where = part.wanted.to(part.last.device)
            places = self.store.append(part.last[where], part.decisive[where])
            rows = [row | {"stored": place} for row, place in zip(rows, places, strict=True)]
        self.records.append(rows)
        self.progress.advance(len(rows))
