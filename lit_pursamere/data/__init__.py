"""Data modules; every batch is (x, y, index)."""

from lit_pursamere.data.arrays import NPZ
from lit_pursamere.data.base import ArrayDataset, ImageDataModule, ShardSampler
from lit_pursamere.data.digits import Digits
from lit_pursamere.data.folder import ImageFolder
from lit_pursamere.data.purified import PurifiedSet
from lit_pursamere.data.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "NPZ",
    "ArrayDataset",
    "Digits",
    "FashionMNIST",
    "ImageDataModule",
    "ImageFolder",
    "PurifiedSet",
    "ShardSampler",
]
