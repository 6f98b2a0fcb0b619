"""CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST from torchvision's files, each split held in memory as uint8.

References: Krizhevsky (2009), "Learning Multiple Layers of Features from Tiny Images"; LeCun, Cortes & Burges,
"The MNIST database of handwritten digits"; Xiao, Rasul & Vollgraf (2017), "Fashion-MNIST", arXiv:1708.07747.
"""

from __future__ import annotations

from abc import abstractmethod
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from lit_pursamere.data.base import ArrayDataset, ImageDataModule, Split
from lit_pursamere.data.source import Source

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST"]

# torchvision checks no sums of unpacked MNIST files, so its reader trips over damaged ones in any of these ways.
READ_ERRORS = (OSError, HTTPException, RuntimeError, AssertionError, ValueError, TypeError, LookupError)

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_NAMES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""


class TorchvisionModule(ImageDataModule):
    """What the data sets of torchvision share: finding, fetching and reading their files, and one error if that fails.

    Args:
        root: Folder that holds (or receives) the folder of the data set.
        download: Whether to fetch missing files, once per node, before they are read.
        kwargs: Other arguments as in `ImageDataModule`.

    Raises:
        FileNotFoundError: On `setup`, if files are missing.
        OSError: If files cannot be fetched (on `prepare_data`) or are damaged.
    """

    source: type[datasets.VisionDataset]

    def __init__(self, root: str = "data", download: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root, self.download = Path(root).expanduser(), download

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Where torchvision looks for the files."""

    @property
    @abstractmethod
    def address(self) -> str:
        """Where the files come from."""

    @abstractmethod
    def files(self) -> dict[str, str | None]:
        """Names of the files in the folder, with their md5 sums where torchvision knows them."""

    @abstractmethod
    def pixels(self, data: datasets.VisionDataset) -> Tensor:
        """Images of an opened data set as uint8 (N, C, H, W)."""

    def prepare_data(self) -> None:
        if not self.download:
            return
        try:
            self.source(self.root, train=False, download=True)
        except READ_ERRORS as error:
            raise OSError(self._complaint("cannot be downloaded to, or read from,", error)) from error

    def load(self, split: Split) -> Source:
        if missing := [name for name in self.files() if not (self.folder / name).is_file()]:
            raise FileNotFoundError(self._complaint("is not in", f"no {', '.join(missing)}"))
        try:
            data = self.source(self.root, train=split == "train")
            images, labels = self.pixels(data), torch.as_tensor(data.targets)
            self._check(images, labels)
            return ArrayDataset(images, labels)
        except READ_ERRORS as error:
            raise OSError(self._complaint("cannot be read from", error)) from error

    def _check(self, images: Tensor, labels: Tensor) -> None:
        expected = (self.channels, self.image_size, self.image_size)
        if tuple(images.shape[1:]) != expected or not len(images):
            raise ValueError(f"images are {tuple(images.shape)}, not (N, {', '.join(map(str, expected))})")
        if labels.max() >= self.num_classes:
            raise ValueError(f"a label is {labels.max()}, but there are {self.num_classes} classes")

    def _complaint(self, trouble: str, reason: Exception | str) -> str:
        """Say what went wrong, where, with which files, and how to mend it."""
        present = {name: md5 for name, md5 in self.files().items() if (self.folder / name).is_file()}
        damaged = [name for name, md5 in present.items() if not check_integrity(self.folder / name, md5)]
        detail = reason if isinstance(reason, str) else f"{type(reason).__name__}: {' '.join(str(reason).split())}"
        detail += f"; damaged: {', '.join(damaged)}" if damaged else ""
        delete = "delete that folder and " if present else ""
        return (
            f"{self.name} {trouble} {self.folder.absolute()} ({detail}). To mend it, {delete}pass "
            "`--data.download true` where there is internet access, or put the unpacked files of "
            f"{self.address} there, or change `--data.root`"
        )


class CIFAR10(TorchvisionModule):
    """CIFAR-10: 50,000 training and 10,000 test images, (3, 32, 32), 10 classes, in `ROOT/cifar-10-batches-py`.

    Args:
        root: Folder that holds (or receives) the folder of the data set.
        download: Whether to fetch missing files (170 MB), once per node, before they are read.
        crop: Padding of the random training crop in pixels (0: no crop).
        flip: Whether to flip training images left and right at random.
        kwargs: Other arguments as in `ImageDataModule`.

    Raises:
        FileNotFoundError: On `setup`, if files are missing.
        OSError: If files cannot be fetched (on `prepare_data`) or are damaged.
    """

    source = datasets.CIFAR10
    name = "cifar10"
    num_classes, channels, image_size = 10, 3, 32
    counts = MappingProxyType({"train": 50_000, "test": 10_000})
    class_names = tuple(CIFAR10_NAMES.split())

    def __init__(
        self, root: str = "data", download: bool = False, crop: int = 4, flip: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(root, download, crop=crop, flip=flip, **kwargs)

    @property
    def folder(self) -> Path:
        return self.root / self.source.base_folder

    def files(self) -> dict[str, str | None]:
        meta = (self.source.meta["filename"], self.source.meta["md5"])
        return dict([*self.source.train_list, *self.source.test_list, meta])

    @property
    def address(self) -> str:
        return self.source.url

    def pixels(self, data: datasets.VisionDataset) -> Tensor:
        return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()


class CIFAR100(CIFAR10):
    """CIFAR-100: as CIFAR-10, with 100 (fine) classes, in `ROOT/cifar-100-python`. Arguments as in `CIFAR10`."""

    source = datasets.CIFAR100
    name = "cifar100"
    num_classes = 100
    class_names = tuple(CIFAR100_NAMES.split())


class MNIST(TorchvisionModule):
    """MNIST: 60,000 training and 10,000 test images, grey, (1, 28, 28), 10 classes, unpacked in `ROOT/MNIST/raw`.

    Arguments and errors as in `TorchvisionModule`; the download is 12 MB (Fashion-MNIST: 31 MB).
    """

    source = datasets.MNIST
    name = "mnist"
    num_classes, channels, image_size = 10, 1, 28
    counts = MappingProxyType({"train": 60_000, "test": 10_000})
    class_names = tuple("0123456789")

    @property
    def folder(self) -> Path:
        return self.root / self.source.__name__ / "raw"

    def files(self) -> dict[str, str | None]:
        # The sums torchvision knows are those of the packed files, which need not be there.
        return {Path(name).stem: None for name, _ in self.source.resources}

    @property
    def address(self) -> str:
        return self.source.mirrors[0]

    def pixels(self, data: datasets.VisionDataset) -> Tensor:
        return data.data.unsqueeze(1)


class FashionMNIST(MNIST):
    """Fashion-MNIST: articles of clothing in MNIST's format, in `ROOT/FashionMNIST/raw`. Arguments as in `MNIST`."""

    source = datasets.FashionMNIST
    name = "fashion_mnist"
    class_names = tuple(datasets.FashionMNIST.classes)
