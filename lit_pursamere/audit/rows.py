"""Audits that go image by image: a row for each, kept in a file, computed once, whenever the audit was stopped.

FOLDER/images.jsonl     a line per image: index, label, digest, and what was found
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lit_pursamere.audit.base import Trial
from lit_pursamere.progress import Progress
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.durable import Row
from lit_pursamere.weights import tensors_digest

__all__ = ["image_rows"]

ROWS = "images.jsonl"


def image_rows(
    opened: ResultsFolder,
    trial: Trial,
    compute: Callable[[Tensor, Tensor, list[int]], dict[str, list[Any]]],
    progress: Progress,
    group: int = 1,
) -> list[Row]:
    """The rows of a trial's images, those from the file, and those that are not there yet.

    Args:
        opened: The folder.
        trial: The images.
        compute: What is found about images (B, C, H, W), their classes and positions, as JSON values: lists of B.
        progress: Counts images.
        group: Images that are computed together.

    Raises:
        ValueError: If the file has a row of another image at the same position.
    """
    rows = opened.read_rows(ROWS, lambda row: int(row["index"]))
    pairs = zip(trial.x.split(1), trial.y.split(1), strict=True)
    digests = [tensors_digest({"x": image, "y": label}) for image, label in pairs]
    for position, digest in zip(trial.index, digests, strict=True):
        if position in rows and rows[position]["image"] != digest:
            raise ValueError(
                f"image {position} of {trial.data} is not the one that {opened.folder / ROWS} has a row of; "
                "choose another `audit.output`, or restore the data"
            )
    missing = [at for at, position in enumerate(trial.index) if position not in rows]
    progress.advance(len(digests) - len(missing), skipped=True)
    for start in range(0, len(missing), group):
        at = missing[start : start + group]
        found = compute(trial.x[at], trial.y[at], [trial.index[i] for i in at])
        new = [
            {"index": trial.index[i], "label": int(trial.y[i]), "image": digests[i]}
            | {name: values[number] for name, values in found.items()}
            for number, i in enumerate(at)
        ]
        rows |= {row["index"]: row for row in opened.append_rows(ROWS, new)}
        progress.advance(len(at))
    return [rows[position] for position in trial.index]
