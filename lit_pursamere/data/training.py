"""Training batches: their order, their crops and flips, and a place that can be restored.

Batch b of epoch e is a function of (seed, e, b), whatever the number of processes: every one knows the order of the
whole data set and takes its equal share of each batch, so that the mean of their gradients is the gradient of the
batch. A run that stops in the middle of an epoch continues with the very next batch. Where the images come from does
not matter.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from lit_pursamere.seeding import generator, run_seed

__all__ = ["Batch", "LazyLoader", "TrainingLoader", "cut", "random_places", "share"]

Batch = tuple[Tensor, Tensor, Tensor]


def share(batch_size: int, count: int, world: int) -> int:
    """Images of a batch that each process takes.

    Args:
        batch_size: Images of a batch, of all processes together.
        count: Number of images; there is no larger batch.
        world: Number of processes.

    Raises:
        ValueError: If a batch has no equal shares; the mean of the gradients would then not be that of the batch.
    """
    batch = min(batch_size, count)
    if batch % world:
        below = batch - batch % world
        fitting = " or ".join(str(size) for size in (below, below + world) if 0 < size <= count)
        mend = f"set `data.batch_size`, which counts all processes together, to {fitting}, or use" if fitting else "use"
        raise ValueError(
            f"a batch of {batch} images cannot be shared equally among {world} processes; {mend} another number of "
            "devices"
        )
    return batch // world


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


class TrainingLoader(ABC):
    """Shuffled training batches (x, y, index), cropped and flipped a whole batch at a time on the device.

    Subclasses implement `fetch`. Batches are (B, C, H, W) float32 in [0, 1], or (B, P, C, H, W) where every image comes
    in P versions, which get the same crop and flip.

    Args:
        count: Number of images.
        batch_size: Images per batch, of all processes together. The last, incomplete batch of an epoch is dropped,
            unless it is the only one.
        device: Where batches are made.
        crop: Padding of the random crop in pixels (0: no crop).
        flip: Whether to mirror images at random.
        seed: Fixes order, crops and flips, together with the seed of the run.
        rank: Number of this process.
        world: Number of processes.

    Raises:
        ValueError: If a batch cannot be shared equally among the processes.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        device: torch.device | str = "cpu",
        crop: int = 0,
        flip: bool = False,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.count, self.device, self.crop, self.flip, self.seed = count, device, crop, flip, seed
        self.whole = min(batch_size, count)  # images of a batch, of all processes together
        mine = share(batch_size, count, world)
        self.mine = slice(rank * mine, (rank + 1) * mine)
        self.epoch, self.done, self.resumed = 0, 0, False
        self.sampler = self  # where Lightning looks for set_epoch

    @abstractmethod
    def fetch(self, batches: list[Tensor]) -> Iterator[Batch]:
        """Images, labels and source indices on the device for batches that are given by the positions (B,) in them."""

    def __len__(self) -> int:
        return self.count // self.whole

    def set_epoch(self, epoch: int) -> None:
        if self.resumed and epoch != self.epoch:  # the stored epoch was complete
            self.done, self.resumed = 0, False
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        if not self.resumed or self.done == len(self):
            self.done = 0
        self.resumed = False
        order = torch.randperm(self.count, generator=generator(run_seed(), self.seed, self.epoch))
        batches = [part[self.mine] for part in order.split(self.whole)[: len(self)]]
        for x, y, index in self.fetch(batches[self.done :]):
            x, self.done = self._augmented(x, self.done), self.done + 1
            yield x, y, index

    def _augmented(self, x: Tensor, number: int) -> Tensor:
        """Batch `number`, cropped and flipped."""
        if self.crop or self.flip:
            draws = generator(run_seed(), self.seed, self.epoch, number)
            rows, columns = random_places(self.whole, x.shape[-1], self.crop, self.flip, draws)
            versions = x if x.ndim == 5 else x.unsqueeze(1)
            versions = cut(versions, self.crop, rows[self.mine], columns[self.mine])
            x = versions if x.ndim == 5 else versions.squeeze(1)
        return x.contiguous()

    def state_dict(self) -> dict[str, int]:
        """Where the epoch stands; part of Lightning's checkpoints."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.done, self.resumed = state["epoch"], state["done"], True


class LazyLoader(TrainingLoader):
    """Training batches from images that are read one by one.

    Args:
        view: Images as (x, y, index), x of shape (C, H, W) or (P, C, H, W) in [0, 1].
        batch_size: As in `TrainingLoader`.
        num_workers: Processes that read; 0 reads in this one.
        options: Other arguments as in `TrainingLoader`.
    """

    def __init__(self, view: Any, batch_size: int, num_workers: int = 0, **options: Any) -> None:
        super().__init__(len(view), batch_size, **options)
        self.batches: list[list[int]] = []  # of the epoch, from which the workers, who stay, are told what to read
        self.reader = DataLoader(
            view,
            batch_sampler=self.batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else the global one would be drawn from
        )

    def fetch(self, batches: list[Tensor]) -> Iterator[Batch]:
        self.batches[:] = [positions.tolist() for positions in batches]
        for batch in self.reader:
            x, y, index = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            yield x, y, index
