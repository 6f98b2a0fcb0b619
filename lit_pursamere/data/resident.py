"""Training batches from images that live on the device: flips and crops happen there, a whole batch at a time.

Batch b of epoch e is a function of (seed, e, b): every process knows the order of the whole data set and takes its own
share, so 1 process with batches of 2 B images sees what 2 processes with B each see, and a run that stops in the middle
of an epoch continues with the very next batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_pursamere.seeding import generator, run_seed

__all__ = ["ResidentLoader"]


def random_places(count: int, size: int, padding: int, flip: bool, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw where each of `count` images is cut out of its padded self: rows and columns (count, size), on the CPU.

    Args:
        count: Number of images.
        size: Height and width in pixels.
        padding: Pixels that the image was padded by on each side (0: it stays where it is).
        flip: Whether to mirror left and right with probability 1/2.
        draws: CPU generator, so that the places do not depend on the images' device.
    """
    corner = torch.randint(2 * padding + 1, (2, count, 1), generator=draws)
    mirrored = torch.rand(count, 1, generator=draws) < (0.5 if flip else 0.0)
    pixels = torch.arange(size)
    return corner[0] + pixels, corner[1] + torch.where(mirrored, pixels.flip(0), pixels)


def cut(images: Tensor, padding: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Pad images (B, P, C, H, W) with black and take each one's rows and columns; all P versions alike."""
    images = F.pad(images, [padding] * 4) if padding else images
    rows, columns = (places.to(images.device, non_blocking=True) for places in (rows, columns))
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 3, 4, 1, 2)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 4, 1, 2)


class ResidentLoader:
    """Shuffled training batches (x, y, index) from tensors in device memory.

    Args:
        versions: P tensors (N, C, H, W), uint8 in 0..255 or floats in [0, 1]: the images, then perhaps their twins.
        labels: Class numbers (N,).
        index: Position of each image in its source split, (N,).
        batch_size: Images per batch and process. The last, incomplete batch of an epoch is dropped, unless it is the
            only one.
        device: Where the images live.
        crop: Padding of the random crop in pixels (0: no crop).
        flip: Whether to mirror images at random.
        seed: Fixes order, crops and flips, together with the seed of the run.
        rank: Number of this process.
        world: Number of processes.

    Batches are (B, C, H, W) float32 in [0, 1], or (B, P, C, H, W) when there is more than one version.
    """

    def __init__(
        self,
        versions: list[Tensor],
        labels: Tensor,
        index: Tensor,
        batch_size: int,
        device: torch.device | str = "cpu",
        crop: int = 0,
        flip: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if any(len(images) != len(labels) for images in versions) or len(index) != len(labels):
            raise ValueError(f"{[len(v) for v in versions]} images, {len(labels)} labels and {len(index)} indices")
        if len(labels) < world:
            raise ValueError(f"{len(labels)} images cannot be shared among {world} processes; use fewer devices")
        self.versions = [images.to(device) for images in versions]
        self.labels, self.index = labels.to(device), index.to(device)
        self.batch_size, self.crop, self.flip, self.seed, self.rank, self.world = (
            batch_size, crop, flip, seed, rank, world,
        )  # fmt: skip
        self.epoch, self.done, self.resumed = 0, 0, False
        self.sampler = self  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return max(len(self.labels) // (self.batch_size * self.world), 1)

    def set_epoch(self, epoch: int) -> None:
        if self.resumed and epoch != self.epoch:  # the stored epoch was complete
            self.done, self.resumed = 0, False
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if not self.resumed or self.done == len(self):
            self.done = 0
        self.resumed = False
        order = torch.randperm(len(self.labels), generator=generator(run_seed(), self.seed, self.epoch))
        while self.done < len(self):
            batch, self.done = self._batch(order, self.done), self.done + 1
            yield batch

    def _batch(self, order: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        whole = min(self.batch_size * self.world, len(order))  # images of all processes together
        mine = slice(self.rank * whole // self.world, (self.rank + 1) * whole // self.world)
        chosen = order[number * whole : (number + 1) * whole][mine].to(self.labels.device, non_blocking=True)
        x = torch.stack([to_float(images[chosen]) for images in self.versions], 1)
        if self.crop or self.flip:
            draws = generator(run_seed(), self.seed, self.epoch, number)
            rows, columns = random_places(whole, x.shape[-1], self.crop, self.flip, draws)
            x = cut(x, self.crop, rows[mine], columns[mine])
        x = x if x.shape[1] > 1 else x.squeeze(1)
        return x.contiguous(), self.labels[chosen], self.index[chosen]

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands; part of Lightning's checkpoints."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.done, self.resumed = state["epoch"], state["done"], True


def to_float(images: Tensor) -> Tensor:
    """Images in [0, 1] as float32, from uint8 in 0..255 or floats in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()
