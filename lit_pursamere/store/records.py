"""Per-image results: one JSON line per image, system and attack, appended as the run proceeds.

    FOLDER/manifest.json        what is evaluated; a folder with rows never mixes two evaluations
    FOLDER/records-RANK.jsonl   rows, see `rows`

A row is keyed by (system, attack, index), so restarts and several processes cannot count an image twice. LitRobustness
writes these entries; those that end in `_any` are null where an attack does not see the purifier:

    dataset, system, attack, index, label       `attack` is `clean` for the verdict on the image itself
    prediction_clean, prediction_last, prediction_any           first verdict: on the image, at the last iterate, and
                                                at the worse of the last and the first that fooled the attacked view
    votes_last, votes_any, evaluations          how many of the evaluations were right; none of a rejected image
    unfooled_last, unfooled_any                 how many were right or rejected; at the worse iterate by this count
                                                (absent without a detector)
    margin_last, margin_any                     true logit minus the best other one, mean over evaluations
    loss_last, loss_any                         cross-entropy, mean over evaluations
    first_success                               steps after which an iterate first fooled the view (the last one: the
                                                defence); 0: before any step, -1: never, null: the attack cannot say
    linf, l2, l1                                distances of the last iterate from the image, in pixel units
    moved                                       l2 distance that the purifier moves the last iterate
    statistic_last, rejected_last               statistic of the detector at the last iterate, and whether it is too
                                                large (absent without a detector)
    seconds                                     time per image, attack and verdicts
    seed                                        what `seed_everything` was given
    run                                         which run it belongs to: digest of the manifest
    stored                                      [rank, position] in the image store, see `images`; null without
"""

from __future__ import annotations

import math
from pathlib import Path

from lit_pursamere.store.durable import Row
from lit_pursamere.store.manifest import read_manifest, run_of
from lit_pursamere.store.rows import RowsFolder

__all__ = ["CLEAN", "Records", "Row", "read_rows"]

CLEAN = "clean"  # the name under which records keep the verdict on the untouched image
PICTURES = "pictures.npz"
Key = tuple[str, str, int]


COUNTS, NUMBERS = ("label", "first_success", "seed"), ("seconds", "linf", "l2", "l1", "moved")
PREDICTIONS = ("prediction_clean", "prediction_last", "prediction_any")


def check(row: Row, name: str, *kinds: type | None, least: float = -math.inf, most: float = math.inf) -> None:
    """Raise ValueError unless an entry of a row is of one of these kinds (None: null), and no other number."""
    value = row[name]
    known = type(value) in kinds or (value is None and None in kinds)
    if not known or (isinstance(value, int | float) and not least <= value <= most):
        raise ValueError(f"{name}: {value!r}")


def is_place(value: list) -> bool:
    return [type(part) for part in value] == [int, int] and min(value) >= 0


def read_rows(folder: str | Path) -> list[Row]:
    """All rows of an evaluation, one per key, sorted by key; those of another run are left out, with a warning.

    Raises:
        FileNotFoundError: If the folder holds no records.
        ValueError: If a line other than a file's last one is damaged; the message names file and line. If all rows are
            of another run than the manifest states.
    """
    rows = _rows(Path(folder))
    if not rows and _rows(Path(folder), foreign=True):
        raise ValueError(
            f"the records in {folder} are of another run than its manifest.json states; restore that file, or remove "
            "the folder"
        )
    if not rows:
        raise FileNotFoundError(f"no records in {folder}; run `lit-pursamere test` with LitRobustness first")
    return [rows[key] for key in sorted(rows)]


def _rows(folder: Path, foreign: bool = False) -> dict[Key, Row]:
    """Rows by key: those of the run that the manifest states, or (`foreign`) of any."""
    manifest = None if foreign else read_manifest(folder)
    run = None if manifest is None else run_of(manifest)
    return Records.read(folder, run)


class Records(RowsFolder):
    """The folder of an evaluation as one process has it open, with the images and pictures that belong to its rows."""

    kind = "records"

    @staticmethod
    def key_of(row: Row) -> Key:
        """The key of a row.

        Raises:
            KeyError: If it lacks an entry that every row has.
            ValueError: If an entry is none of those that an evaluation writes; the message names it.
        """
        check(row, "system", str)
        check(row, "attack", str)
        check(row, "index", int, least=0)
        check(row, "evaluations", int, least=1)
        for name in row.keys() & {"votes_last", "votes_any", "unfooled_last", "unfooled_any"}:
            check(row, name, int, None, least=0, most=row["evaluations"])
        if row.get("statistic_last") is not None:
            check(row, "statistic_last", int, float)
            check(row, "rejected_last", bool)
        for name in row.keys() & {*COUNTS, *NUMBERS, *PREDICTIONS}:
            check(
                row, name, int, None, *([float] if name in NUMBERS else []), least=-1 if name == "first_success" else 0
            )
        if "stored" in row:
            check(row, "stored", list, None)
            if row["stored"] is not None and not is_place(row["stored"]):
                raise ValueError(f"stored: {row['stored']!r} is no [rank, position]")
        return row["system"], row["attack"], row["index"]

    def _mend(self, number: str) -> None:
        super()._mend(number)
        images = [*self.folder.glob(f"images-{number}.float*")]
        if not self.has_rows(self.folder):  # of a run that was killed before its first row, maybe of another one
            shown = [*self.folder.glob(PICTURES)] if number in ("*", "0") else []
            for file in (*images, *shown):
                file.unlink()
        elif images:
            from lit_pursamere.store.images import cut_unnamed  # with torch, which a report does without

            cut_unnamed(self.folder, _rows(self.folder).values(), images)

    def get(self, system: str, attack: str, index: int) -> Row | None:
        """The row of an image, if it was evaluated before."""
        return self.rows.get((system, attack, index))
