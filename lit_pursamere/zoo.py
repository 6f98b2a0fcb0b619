"""Classifiers of other libraries by name, with the normalisation that goes with their weights.

    torchvision:resnet50      torchvision:resnet50(IMAGENET1K_V1)      of several sets of weights, one by its name
    timm:resnet18.a1_in1k
    robustbench:Engstrom2019Robustness(cifar10, Linf)

A library is imported when it is asked for. Its networks are built empty, and filled by this package's reader, which
runs nothing in a file; what is not on this machine is downloaded only if that is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lit_pursamere.networks import Normalised
from lit_pursamere.weights import load_weights

__all__ = ["LIBRARIES", "ZooClassifier", "is_zoo", "zoo_classifier"]

NAME = re.compile(r"(torchvision|timm|robustbench):([^():]+?)(?:\(([^()]*)\))?")
LIBRARIES = ("torchvision", "timm", "robustbench")
TRANSFORMING = ("googlenet", "inception_v3")  # of torchvision; with weights they normalise anew, and say so only then


class Place(NamedTuple):
    """Where the file of published weights is, or will be, where it comes from, and how its hash begins."""

    file: Path | None = None
    origin: str = ""
    digest: str = ""


class Source(NamedTuple):
    """An empty network, what its weights want of images (None: they are taken as they are), and where these are."""

    network: nn.Module
    mean: Sequence[float] | None
    std: Sequence[float] | None
    place: Place


def is_zoo(name: str) -> bool:
    """Whether a name is that of a classifier of another library."""
    return name.partition(":")[0] in LIBRARIES


class ZooClassifier(nn.Module):
    """An empty network of another library, behind the normalisation of its weights.

    Args:
        name: As at the top of this file.
        mean: What is subtracted from images in [0, 1]. None: what the library says.
        std: What they are then divided by. None: what the library says.
        resize: Height and width that images are brought to, see `networks.Normalised`. None: they keep their size.

    Raises:
        ValueError: If the library has nothing of that name, or the size is not above 0.
        ImportError: If it is not installed.
    """

    def __init__(
        self, name: str, mean: list[float] | None = None, std: list[float] | None = None, resize: int | None = None
    ) -> None:
        super().__init__()
        network, own_mean, own_std, self._place = source_of(name)
        self.name, self.mean, self.std = name, mean or listed(own_mean), std or listed(own_std)
        self.resize = resize
        if self.mean is not None and self.std is not None:
            self.network: nn.Module = Normalised(network, self.mean, self.std, resize=resize)
        else:
            self.network = network if resize is None else Normalised(network, [0.0], [1.0], resize=resize)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)


def zoo_classifier(
    name: str, checkpoint: str | Path | None = None, download: bool = False, resize: int | None = None
) -> nn.Module:
    """A classifier of another library with its weights, from images (B, C, H, W) in [0, 1] to logits.

    Args:
        name: As at the top of this file.
        checkpoint: A file with weights for it. None: those that the library publishes.
        download: Whether to download these if they are not on this machine.
        resize: As in `ZooClassifier`.

    Raises:
        ValueError: If the library has nothing of that name, or the weights do not fit.
        ImportError: If it is not installed.
        FileNotFoundError: If there are no weights on this machine; the message says how to get them.
    """
    classifier = ZooClassifier(name, resize=resize)
    inner = classifier.network.network if isinstance(classifier.network, Normalised) else classifier.network
    load_weights(inner, checkpoint or present(name, classifier._place, download))
    return classifier.eval()


def listed(values: Sequence[float] | None) -> list[float] | None:
    """One number per channel, if there are any."""
    return None if values is None else [float(value) for value in values]


def present(name: str, place: Place, download: bool) -> Path:
    """The file of published weights, downloaded if that is wanted and needed; raises as `zoo_classifier`."""
    file, origin, digest = place
    if file is not None and file.is_file():
        return file
    if not origin:
        raise FileNotFoundError(f"no weights are published for {name}; give a weight file")
    if not download:
        raise FileNotFoundError(
            f"the weights of {name} are not on this machine: --download (download=True) gets them, {origin}; or give a "
            "weight file"
        )
    if file is None:
        repository, _, entry = origin.rpartition("/")
        return Path(library("huggingface_hub").hf_hub_download(repository, entry))
    file.parent.mkdir(parents=True, exist_ok=True)
    if name.startswith("robustbench:"):
        library("robustbench.utils").download_gdrive(origin, str(file))
    else:
        torch.hub.download_url_to_file(origin, str(file), digest or None)
    return file


def source_of(name: str) -> Source:
    """What a library says of a name; raises as `ZooClassifier`."""
    found = NAME.fullmatch(name.strip())
    if found is None:
        raise ValueError(
            f"{name!r} names no classifier of another library; write torchvision:resnet50, timm:NAME or "
            "robustbench:NAME(dataset, threat)"
        )
    package, model, details = found.groups()
    return {"torchvision": torchvision, "timm": timm, "robustbench": robustbench}[package](model, details)


def torchvision(name: str, weights: str | None) -> Source:
    """A classifier of torchvision, with its best weights, or those of a name."""
    models = library("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(f"torchvision has no classifier {name}; it has {some(known, name)}")
    choices = models.get_model_weights(name)
    if weights is not None and weights not in choices.__members__:
        raise ValueError(f"torchvision's {name} has no weights {weights}; it has {', '.join(choices.__members__)}")
    chosen = choices[weights] if weights else choices.DEFAULT
    how = {"transform_input": True, "init_weights": False} if name in TRANSFORMING else {}
    network = models.get_model(name, weights=None, num_classes=len(chosen.meta["categories"]), **how)
    told = chosen.transforms()
    return Source(network, told.mean, told.std, in_hub(chosen.url))


def in_hub(url: str) -> Place:
    """Where torch keeps what it downloads from a URL."""
    file = url.rpartition("/")[2]
    digest = re.search(r"-([0-9a-f]{8,})\.", file)
    return Place(Path(torch.hub.get_dir()) / "checkpoints" / file, url, digest[1] if digest else "")


def timm(name: str, details: str | None) -> Source:
    """A classifier of timm."""
    package = library("timm")
    if details is not None or not package.is_model(name):
        raise ValueError(f"timm has no model {name}; it has {some(package.list_models(), name)}")
    told = package.get_pretrained_cfg(name)
    network = package.create_model(name, pretrained=False)
    if told is None or not (told.hf_hub_id or told.url):
        return Source(network, getattr(told, "mean", None), getattr(told, "std", None), Place())
    if not told.hf_hub_id:
        return Source(network, told.mean, told.std, in_hub(told.url))
    entry = told.hf_hub_filename or "model.safetensors"
    cached = library("huggingface_hub").try_to_load_from_cache(told.hf_hub_id, entry)
    file = Path(cached) if isinstance(cached, str) else None
    return Source(network, told.mean, told.std, Place(file, f"{told.hf_hub_id}/{entry}"))


def robustbench(name: str, details: str | None) -> Source:
    """A classifier of RobustBench, which normalises for itself; its files lie in models/DATASET/THREAT/."""
    zoo = library("robustbench.model_zoo").model_dicts
    words = [word.strip() for word in (details or "cifar10, Linf").split(",")]
    tables = {(str(dataset.value), str(threat.value)): table for dataset, inner in zoo.items()
              for threat, table in inner.items()}  # fmt: skip
    table = tables.get((words[0], words[-1])) if len(words) == 2 else None
    if table is None:
        known = ", ".join(f"({dataset}, {threat})" for dataset, threat in tables)
        raise ValueError(f"RobustBench has no ({', '.join(words)}); it has {known}")
    if name not in table:
        raise ValueError(f"RobustBench has no {name} for ({', '.join(words)}); it has {some(table, name)}")
    file = Path("models", *words, f"{name}.pt")
    return Source(table[name]["model"](), None, None, Place(file, str(table[name].get("gdrive_id") or "")))


def some(known: Any, name: str) -> str:
    """Names like this one, or a few of all of them."""
    from difflib import get_close_matches

    return ", ".join(get_close_matches(name, list(known), 5, 0.4) or sorted(known)[:5]) + " ..."


def library(name: str) -> Any:
    """A module of a library.

    Raises:
        ImportError: If it is not installed; with the command that installs it.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(f"{package} is not installed: pip install {package}  ({error})") from error
