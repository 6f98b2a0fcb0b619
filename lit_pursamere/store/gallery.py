"""The attacked images that a run's pictures show, so that a run which continues draws what one in one go would.

    FOLDER/pictures.npz    image (C, H, W) by its position in the data set, float32; float64 for runs in float64

An image is there before its row is.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.npy import READ_ERRORS

__all__ = ["Gallery"]


class Gallery:
    """The images of a folder of records, and more as they come.

    Args:
        folder: The folder. A file that cannot be read counts as none: its images are for show only.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "pictures.npz"
        self.images: dict[int, np.ndarray] = {}
        if self.file.is_file():
            try:
                with np.load(self.file, allow_pickle=False) as found:
                    self.images = {int(number): found[number] for number in found}
            except (*READ_ERRORS, MemoryError):
                self.images = {}

    def add(self, numbers: Sequence[int], images: Tensor) -> None:
        """Keep images (B, C, H, W) of these positions on disk.

        Raises:
            OSError: If they cannot be written, with what to do about it.
        """
        dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
        self.images |= dict(zip(numbers, images.detach().to("cpu", dtype).numpy(), strict=True))
        content = io.BytesIO()
        np.savez(content, **{str(number): self.images[number] for number in sorted(self.images)})  # type: ignore[arg-type]
        write_whole(self.file, content.getvalue())

    def get(self, numbers: Sequence[int], like: Tensor) -> Tensor:
        """Images (B, C, H, W) of these positions, which must be there, with type and device of another tensor."""
        return torch.stack([torch.from_numpy(self.images[number]) for number in numbers]).to(like)
