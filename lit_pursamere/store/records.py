"""Per-image results: one JSON line per image, system and attack, appended as the run proceeds.

    FOLDER/manifest.json        what is evaluated; a folder with rows never mixes two evaluations
    FOLDER/records-RANK.jsonl   rows; a broken last line (a killed process) is dropped on reading

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
    stored                                      [rank, position] in the image store, see `images`; null without
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lit_pursamere.store.durable import append
from lit_pursamere.store.manifest import check_manifest, write_manifest

__all__ = ["Records", "check_evaluation", "read_rows"]

Row = dict[str, object]
CLEAN = "clean"  # the name under which records keep the verdict on the untouched image
Key = tuple[str, str, int]


def key_of(row: Row) -> Key:
    return str(row["system"]), str(row["attack"]), int(row["index"])  # type: ignore[call-overload]


def read_rows(folder: str | Path) -> list[Row]:
    """All rows of an evaluation, one per key, sorted by key.

    Raises:
        FileNotFoundError: If the folder holds no records.
        ValueError: If a line other than a file's last one is damaged; the message names file and line.
    """
    files = sorted(Path(folder).glob("records-*.jsonl"))
    if not files:
        raise FileNotFoundError(f"no records in {folder}; run `lit-pursamere test` with LitRobustness first")
    rows: dict[Key, Row] = {}
    for file in files:
        rows.update((key_of(row), row) for row in _read_file(file))
    return [rows[key] for key in sorted(rows)]


def _read_file(file: Path) -> Iterable[Row]:
    lines = file.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key_of(row)
            yield row
        except (ValueError, KeyError, TypeError):
            if number < len(lines):  # a complete line ends with a newline, so only the last may be cut short
                raise ValueError(f"{file}, line {number} is damaged; remove that line and run again") from None


def check_evaluation(folder: Path, manifest: dict) -> bool:
    """Whether a folder has rows of this evaluation. A manifest alone, left by a run that failed, binds nothing.

    Raises:
        ValueError: If its rows are those of another evaluation; the message names the differences.
    """
    return any(folder.glob("records-*.jsonl")) and check_manifest(folder, manifest)


class Records:
    """Rows of one evaluation as one process sees them: what is done already, and a file to append to.

    Args:
        folder: Where the evaluation lives.
        manifest: JSON values that say what is evaluated.
        rank: Number of this process.

    Raises:
        ValueError: If the folder holds an evaluation with another manifest; the message names the differences.
    """

    def __init__(self, folder: str | Path, manifest: dict, rank: int = 0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        if rank:  # the first process has written it
            check_manifest(self.folder, manifest)
        elif not check_evaluation(self.folder, manifest):
            write_manifest(self.folder, manifest)
        self.file = self.folder / f"records-{rank}.jsonl"
        self._cut_broken_tail()
        try:
            self.rows = {key_of(row): row for row in read_rows(self.folder)}
        except FileNotFoundError:
            self.rows = {}

    def _cut_broken_tail(self) -> None:
        if not self.file.is_file():
            return
        content = self.file.read_bytes()
        if content and not content.endswith(b"\n"):
            with open(self.file, "r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)

    def get(self, system: str, attack: str, index: int) -> Row | None:
        """The row of an image, if it was evaluated before."""
        return self.rows.get((system, attack, index))

    def append(self, rows: list[Row]) -> None:
        """Add rows and force them to disk.

        Raises:
            OSError: If they cannot be written, with what to do about it.
        """
        append(self.file, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.rows.update((key_of(row), row) for row in rows)
