"""Opening the folder of a run that several processes write to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytorch_lightning as pl

from lit_pursamere.store.provenance import note_start

__all__ = ["open_in_turn"]


def open_in_turn(task: pl.LightningModule, folder: str | Path, open_folder: Callable[[], None]) -> None:
    """Open a run's folder on every process, the first one first: it writes the manifest that the others compare with.

    Args:
        task: The task that runs, with its trainer.
        folder: The folder; what the run starts with is noted there.
        open_folder: Opens it for the process that calls.

    Raises:
        ValueError: If the first process may not open it; the others then end without a word.
        OSError: If it cannot.
    """
    refused: Exception | None = None
    first = task.trainer.is_global_zero
    if first:
        try:
            open_folder()
            note_start(folder, task.device, task.trainer.world_size)
        except (ValueError, OSError) as error:
            refused = error
    if task.trainer.strategy.broadcast(refused is not None):
        raise refused or SystemExit(1)  # one process complains for all
    if not first:
        open_folder()
