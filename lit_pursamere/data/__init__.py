"""Data modules; every batch is (x, y, index).

They are Lightning's, which takes seconds to import: it comes with the first of them that is asked for, and whoever
reads pictures or purified sets does without.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lit_pursamere.data.purified import PurifiedSet

if TYPE_CHECKING:
    from lit_pursamere.data.base import ArrayDataset, ImageDataModule, ShardSampler
    from lit_pursamere.data.digits import Digits
    from lit_pursamere.data.folder import ImageFolder
    from lit_pursamere.data.npz import NPZ
    from lit_pursamere.data.tiny_imagenet import TinyImageNet
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
    "TinyImageNet",
]


def __getattr__(name: str) -> object:
    """Import all data modules at once, so that a configuration may name any of them without its path."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for file in ("base", "digits", "folder", "npz", "tiny_imagenet", "torchvision_sets"):
        module = import_module(f"{__name__}.{file}")
        globals().update({shown: vars(module)[shown] for shown in module.__all__})
    return globals()[name]
