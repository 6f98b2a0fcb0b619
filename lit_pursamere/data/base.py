"""What every data module shares: splits, subsets, pairs, sharding. Every batch is (x, y, index).

x is (B, C, H, W) in [0, 1], y holds class numbers, index the position of each image in its source split, so that
results and purified copies can be keyed by it. With a purified set, training batches are pairs: x is
(B, 2, C, H, W), the clean image and its purified twin under the same crop and flip (PurSAMERE, eq. 17).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeGuard

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from lit_pursamere.data.purified import PurifiedSet
from lit_pursamere.data.purified_checks import is_held_out, require, require_for_training, verify
from lit_pursamere.data.resident import ResidentLoader, to_float
from lit_pursamere.data.source import Source
from lit_pursamere.data.training import LazyLoader, TrainingLoader
from lit_pursamere.sharding import WHOLE, Shard
from lit_pursamere.stopping import left_to_first

__all__ = ["ArrayDataset", "ImageDataModule", "ShardSampler"]

Split = Literal["train", "test"]
RESIDENT_BYTES = 2 * 2**30
BATCH = 128  # images that are judged at a time unless somebody says how many
READ_FOR_DIGEST = 5000  # files at most that are read to tell whether a run continues on the same images


class ArrayDataset(Dataset):
    """Images held in memory.

    Args:
        images: (N, C, H, W), uint8 in 0..255 or float32 in [0, 1].
        labels: Class numbers (N,).
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if images.ndim != 4 or len(images) != len(labels):
            raise ValueError(
                f"images must be (N, C, H, W) with N labels; got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        if images.dtype != torch.uint8 and len(images) and not (images.min() >= 0 and images.max() <= 1):
            raise ValueError(
                f"float images must lie in [0, 1]; they range from {images.min():g} to {images.max():g} "
                "(divide by 255, or pass uint8)"
            )
        self.images, self.labels = images, labels.long()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_float(self.images[index]), int(self.labels[index])


class IndexedView(Dataset):
    """Chosen images of a source, as (x, y, index), paired with their purified twins on the way."""

    def __init__(self, source: Source, indices: Sequence[int], twins: PurifiedSet | None = None) -> None:
        self.source, self.indices, self.twins = source, list(indices), twins

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int, int]:
        index = self.indices[position]
        x, y = self.source[index]
        if self.twins is not None:
            x = torch.stack([x, self.twins[index]])
        return x, y, index


def digest_of_images(source: Source, indices: Sequence[int]) -> str:
    """Hex digest of images of a source: their positions, pixels and labels. Every one of them is read."""
    digest = hashlib.sha256()
    for index in indices:
        x, y = source[index]
        digest.update(f"{index} {int(y)} {tuple(x.shape)}".encode())
        digest.update(x.contiguous().numpy().data)
    return digest.hexdigest()[:16]


class ShardSampler(DistributedSampler):
    """Deals chunks of consecutive positions to processes in turn, without padding: each image is evaluated once.

    Chunk k goes to process k mod `world`. With the loader's batch size as `chunk`, any number of processes sees the
    same batches. A DistributedSampler by type, because those are the ones that Lightning does not replace by a padding
    sampler.

    Args:
        length: Number of positions.
        rank: Number of this process.
        world: Number of processes.
        chunk: Positions per chunk; the last chunk may be shorter.

    Raises:
        ValueError: If there are fewer chunks than processes.
    """

    def __init__(self, length: int, rank: int, world: int, chunk: int = 1) -> None:
        chunks = -(-length // chunk)
        if chunks < world:
            raise ValueError(
                f"{length} images in batches of {chunk} make {chunks}, too few for {world} processes; use fewer "
                "devices or shards, or a smaller `data.eval_batch_size`"
            )
        super().__init__(range(length), num_replicas=world, rank=rank, shuffle=False)  # type: ignore[arg-type]
        self.positions = [position for position in range(length) if position // chunk % world == rank]

    def __iter__(self) -> Iterator[int]:
        return iter(self.positions)

    def __len__(self) -> int:
        return len(self.positions)


class ImageDataModule(pl.LightningDataModule, ABC):
    """Base of all data modules; a subclass says how to load its two splits and what its images look like.

    Args:
        batch_size: Images (or pairs) per training batch, of all processes together; they take equal shares.
        eval_batch_size: Images per batch and process when validating, testing and predicting. `auto`: 128, and the
            commands `test` and `predict` look how many fit into memory.
        num_workers: Loader processes; 0 loads in the main process.
        val_size: Images of the training split held out for validation; with `purified`, of those that are purified.
        train_size: Images of the training split that are used beside those held out, chosen by `seed` (None: all).
        test_size: Images that `test` evaluates, the first ones (None: all of those that `evaluate` names). Of a set
            that lies class after class, as folders do, the first are those of the classes in turn.
        test_start: Where the first ones begin: images before it, which a choice may have seen, are left out.
        test_seed: Take the `test_size` images at random with this seed instead of the first ones.
        test_generator: Which of NumPy's generators `test_seed` seeds: `default_rng`, or the old `RandomState`, whose
            choice without replacement published evaluations used (DiffPure; Lee and Kim, 512 images with seed 0).
        evaluate: Which images `test` and `predict` see: `test`, `val` (for choices that must not touch the test
            images), or `train` (to purify the training set).
        crop: Padding of the random training crop in pixels (0: no crop).
        flip: Whether to flip training images left and right at random.
        purified: Folder of a purified training set; training and validation batches then are pairs. It must be made of
            these very images, complete and undamaged.
        purified_by: Settings that its purifier must have had, such as {class: PurSAMERE, rho_pur: 3.0}, by their names
            in its manifest; `weights` are the first characters of the digest. None: any purifier. A set of the images
            that `evaluate: val` names is taken only with {evaluate: val}.
        resident: Whether training images live on the device (None: if they are in memory anyway and take at most 2
            GiB). Else `num_workers` processes load them one by one. The batches are the same.
        seed: Seed of the validation split; order, crops and flips of training images depend on `seed_everything` too.
    """

    name: str
    num_classes: int
    channels: int
    image_size: int
    class_names: tuple[str, ...]
    counts: Mapping[Split, int] = MappingProxyType({})  # images of its splits, where they are known without its files

    def __init__(
        self,
        batch_size: int = 128,
        eval_batch_size: int | str = 128,
        num_workers: int = 0,
        val_size: int = 0,
        train_size: int | None = None,
        test_size: int | None = None,
        test_start: int = 0,
        test_seed: int | None = None,
        test_generator: Literal["default_rng", "RandomState"] = "default_rng",
        evaluate: Literal["test", "val", "train"] = "test",
        crop: int = 0,
        flip: bool = False,
        purified: str | None = None,
        purified_by: dict[str, Any] | None = None,
        resident: bool | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic = eval_batch_size == "auto"  # until somebody has looked how many images fit
        if isinstance(eval_batch_size, str) and not self.automatic:
            raise ValueError(
                f"{type(self).__name__} needs an eval_batch_size of at least 1, or auto; got {eval_batch_size!r}"
            )
        self.eval_batch_size = BATCH if isinstance(eval_batch_size, str) else eval_batch_size
        for key, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", self.eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("val_size", val_size, 0),
            ("train_size", 1 if train_size is None else train_size, 1),
            ("test_size", 1 if test_size is None else test_size, 1),
            ("crop", crop, 0),
            ("test_start", test_start, 0),
            ("test_seed", 0 if test_seed is None else test_seed, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise ValueError(f"{type(self).__name__} needs {key} >= {least}; got {value}")
        self.batch_size, self.num_workers = batch_size, num_workers
        if test_generator not in ("default_rng", "RandomState"):
            raise ValueError(f"test_generator must be 'default_rng' or 'RandomState'; got {test_generator!r}")
        self.val_size, self.train_size, self.test_size, self.evaluate = val_size, train_size, test_size, evaluate
        self.test_start, self.test_seed, self.test_generator = test_start, test_seed, test_generator
        self.crop, self.flip, self.purified, self.resident, self.seed = crop, flip, purified, resident, seed
        self.purified_by = purified_by
        self.sources: dict[str, Source] = {}
        self.twins: Any = None  # where set, what stands in for the folder `purified`
        self.shard: Shard = WHOLE  # which part of the images `test` and `predict` see here

    @abstractmethod
    def load(self, split: Split) -> Source:
        """The whole split as a dataset of (x in [0, 1], y)."""

    def setup(self, stage: str | None = None) -> None:
        wanted: set[Split] = {"train"} if stage in ("fit", "validate") or self.evaluate != "test" else {"test"}
        if stage is None:
            wanted = {"train", "test"}
        for split in wanted - self.sources.keys():
            self.sources[split] = self.load(split)
        if self.crop > getattr(self, "image_size", self.crop):
            raise ValueError(f"data.crop is the padding in pixels, up to {self.image_size} here; got {self.crop}")
        if untold := [name for name in ImageDataModule.__annotations__ if not hasattr(self, name)]:
            raise ValueError(f"{type(self).__name__} must say its {', '.join(untold)}, as attributes of the class")

    def indices(self, split: Literal["train", "val", "test"]) -> list[int]:
        """Positions in the source split that make up a split, ascending."""
        if split == "test":
            return list(range(len(self.sources["test"])))
        total = len(self.sources["train"])
        order = np.random.default_rng(self.seed).permutation(total)
        paired = self._paired(total)
        if paired is not None:
            order = order[np.isin(order, paired)]
        size = max(len(order) - self.val_size, 1) if self.train_size is None else self.train_size
        if self.val_size + size > len(order):
            of = f", of which {len(order)} are purified in {self.purified}" if len(order) < total else ""
            raise ValueError(
                f"{self.name} has {total} training images{of}, but val_size={self.val_size}, train_size={size}"
            )
        chosen = order[: self.val_size] if split == "val" else order[self.val_size : self.val_size + size]
        return sorted(chosen.tolist())

    def _paired(self, total: int) -> np.ndarray | None:
        """Which training images have a purified twin, where the set is one of these images; None: no matter which.

        A set may be of fewer images than there are, by the `val_size` and `train_size` of its `predict`; a fit then
        splits those. Whether all else of the set is right, `_twins` looks.
        """
        if self.purified is None or self.twins is not None or (self.trainer is not None and self.trainer.predicting):
            return None
        try:
            twins = PurifiedSet.open(self.purified)
        except (ValueError, OSError):
            return None
        told = twins.manifest
        own = told.get("data") == self.name and told.get("split") == "train"
        own = own and not is_held_out(twins, self.purified_by)
        return twins.indices if own and told.get("source", {}).get("count") == total else None

    def test_indices(self) -> list[int]:
        """Positions of the images that `test` evaluates, in their order: ascending, or the classes in turn."""
        turned = self._in_turn if self._class_after_class() else list
        rest = turned(self.indices(self.evaluate))[self.test_start :]
        size = max(len(rest), 1) if self.test_size is None else self.test_size
        if size > len(rest):
            of = f" from test_start={self.test_start} on" if self.test_start else ""
            raise ValueError(f"test_size={size} exceeds the {len(rest)} {self.evaluate} images of {self.name}{of}")
        if self.test_seed is not None:
            generator, left = getattr(np.random, self.test_generator)(self.test_seed), sorted(rest)
            rest = turned(sorted(left[position] for position in generator.permutation(len(left))[:size]))
        return rest[:size]

    def _evaluated_source(self) -> Source:
        return self.sources["test" if self.evaluate == "test" else "train"]

    def _class_after_class(self) -> bool:
        """Whether the images that `test` chooses from lie in order of class, so that the first n are of few classes."""
        labels = np.asarray(getattr(self._evaluated_source(), "labels", ()))
        blocks = 1 + np.count_nonzero(labels[1:] != labels[:-1])
        return bool(1 < blocks < len(labels)) and blocks == len(np.unique(labels))

    def _in_turn(self, chosen: list[int]) -> list[int]:
        """These positions, the first of each class before the second of any."""
        source: Any = self._evaluated_source()
        rank, seen = {}, Counter[int]()
        for position in chosen:
            label = int(source.labels[position])
            rank[position] = seen[label]
            seen[label] += 1
        return sorted(chosen, key=rank.__getitem__)

    @property
    def images_name(self) -> str:
        """Which images `test` evaluates, in words: "digits, test images"."""
        return f"{self.name}, {self.evaluate} images{', classes in turn' if self._class_after_class() else ''}"

    def evaluated(self) -> dict[str, object]:
        """Which images `test` evaluates: count, shape, and a digest of their positions, pixels and labels."""
        source, indices = self._evaluated_source(), self.test_indices()
        shape = [self.channels, self.image_size, self.image_size]
        return {"count": len(indices), "digest": digest_of_images(source, indices), "shape": shape}

    def trained_on(self) -> dict[str, object]:
        """Which images a training sees, see `identity`."""
        return self.identity("train", self.indices("train"))

    def identity(self, split: Split, indices: Sequence[int]) -> dict[str, object]:
        """What images of a source split are: count, and a digest of their positions, pixels and labels.

        Of images that are read one by one, and are many, the digest is of those at evenly spread positions.
        """
        source = self.sources[split]
        step = 1 if isinstance(source, ArrayDataset) else -(-len(indices) // READ_FOR_DIGEST)
        return {"count": len(indices), "digest": digest_of_images(source, indices[::step])}

    def training_images(self, count: int | None = None) -> Tensor:
        """Training images (N, C, H, W) in [0, 1] without augmentation: all, or `count` of them chosen by `seed`."""
        chosen = self.indices("train")
        if count is not None:
            if not 1 <= count <= len(chosen):
                raise ValueError(f"there are {len(chosen)} training images of {self.name}; cannot take {count}")
            order = np.random.default_rng(self.seed).permutation(len(chosen))[:count]
            chosen = [chosen[position] for position in sorted(order)]
        return self._training_pixels(chosen)

    def validation_images(self) -> Tensor:
        """The `val_size` training images (N, C, H, W) in [0, 1] that are held out for choices.

        Raises:
            ValueError: If there are none.
        """
        if not self.val_size:
            raise ValueError(f"no images of {self.name} are held out; set `data.val_size` above 0")
        if "train" not in self.sources:
            self.sources["train"] = self.load("train")
        return self._training_pixels(self.indices("val"))

    def _training_pixels(self, chosen: list[int]) -> Tensor:
        source = self.sources["train"]
        if isinstance(source, ArrayDataset):
            return to_float(source.images[torch.tensor(chosen)])
        return torch.stack([source[index][0] for index in chosen])

    def train_dataloader(self) -> TrainingLoader:
        source, indices = self.sources["train"], self.indices("train")
        twins = self._twins(indices)
        if twins is not None and self.twins is None and len(twins) < len(source):
            rank_zero_info(
                f"lit-pursamere: {len(twins)} of {len(source)} training images of {self.name} are purified in "
                f"{self.purified}; of these, {len(indices)} are trained on"
            )
        options: dict[str, Any] = {
            "device": "cpu" if self.trainer is None else self.trainer.strategy.root_device,
            "crop": self.crop, "flip": self.flip, "seed": self.seed, "rank": self._rank(), "world": self._world(),
        }  # fmt: skip
        if not self._is_resident(source):
            return LazyLoader(IndexedView(source, indices, twins), self.batch_size, self.num_workers, **options)
        chosen = torch.tensor(indices)
        versions = [source.images[chosen]]
        if twins is not None:
            versions.append(torch.from_numpy(twins.take(indices)))
        return ResidentLoader(versions, source.labels[chosen], chosen, self.batch_size, **options)

    def _is_resident(self, source: Source) -> TypeGuard[ArrayDataset]:
        if self.resident is None:
            return isinstance(source, ArrayDataset) and source.images.nbytes <= RESIDENT_BYTES
        if self.resident and not isinstance(source, ArrayDataset):
            raise ValueError(f"{self.name} is read image by image and cannot be resident; set `--data.resident false`")
        return self.resident

    def val_dataloader(self) -> DataLoader | list:
        if not self.val_size:
            return []
        indices = self.indices("val")
        return self._evaluation_loader("val", indices, self._twins(indices), whole_batches=False)

    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.evaluate, self.test_indices())

    def predict_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.evaluate, self.indices(self.evaluate))

    def _twins(self, indices: list[int]) -> PurifiedSet | None:
        if self.purified is None or self.twins is not None:
            return self.twins
        refused: ValueError | OSError | None = None
        try:
            twins = PurifiedSet.open(self.purified)
            shape = (self.channels, self.image_size, self.image_size)
            require_for_training(twins, self.purified_by)
            require(twins, self.name, "train", self.sources["train"], indices, shape, self.purified_by)
            if self.trainer is None or self.trainer.local_rank == 0:  # every byte is read, once per node
                verify(twins, indices)
        except (ValueError, OSError) as error:
            refused = error
        whole = refused is None
        if self.trainer is not None:  # no process goes on to wait for one that has stopped
            whole = self.trainer.strategy.reduce_boolean_decision(whole)
        if not whole:
            raise refused or left_to_first()
        return twins

    def _evaluation_loader(
        self,
        split: Literal["train", "val", "test"],
        chosen: list[int],
        twins: PurifiedSet | None = None,
        whole_batches: bool = True,
    ) -> DataLoader:
        """Loader of images in order; with `whole_batches`, the same batches whatever the number of processes."""
        if not chosen:
            raise ValueError(f"there are no {split} images of {self.name}; set val_size above 0 to evaluate on val")
        view = IndexedView(self.sources["test" if split == "test" else "train"], chosen, twins)
        rank, world, chunk = self._rank(), self._world(), self.eval_batch_size
        if whole_batches:
            rank, world = self.shard.place(rank, world)
        else:  # a mean over images does not care how they are dealt
            chunk = max(1, min(chunk, len(view) // world))
        return DataLoader(
            dataset=view,
            batch_size=self.eval_batch_size,
            sampler=ShardSampler(len(view), rank, world, chunk),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    def _world(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1
