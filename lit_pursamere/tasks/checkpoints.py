"""Checkpoints that are whole whenever the process, or the machine, is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io import TorchCheckpointIO

from lit_pursamere.store.atomic import replacing

__all__ = ["WholeCheckpoints"]


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the file that it replaces, and lets it take its name only when it is on disk.

    Lightning writes to the folder for temporary files and moves the result, which is a copy, and so may be cut short,
    where that folder is on another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with replacing(Path(path)) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
