"""Score models, classifiers and purifiers by name, built with their weights and ready to be used.

score = load_score_model("cifar10/edm-small")
classifier = load_classifier("cifar10/standard", download=True)
purify = load_purifier("pursamere", "cifar10/ncsnv2-small")

`lit-pursamere weights list` shows the names of weights; those of purifiers are the files of configs/purifier/.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from lit_pursamere.configuration.building import build
from lit_pursamere.configuration.composition import configuration_of, read_yaml
from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import Knowledge, Recipe, complete
from lit_pursamere.shipped import names_of, part
from lit_pursamere.weights.getting import get
from lit_pursamere.weights.registry import find, score_model_of
from lit_pursamere.zoo import is_zoo, zoo_classifier

__all__ = ["load_classifier", "load_purifier", "load_score_model"]


def load_score_model(name: str, download: bool = False, **settings: Any) -> ScoreModel:
    """Build a score model with its weights.

    Args:
        name: As `lit-pursamere weights list` shows it, such as `cifar10/edm-small`.
        download: Whether to download weights that are not on this machine.
        settings: Arguments of its class other than those that it is configured with, such as `weights="raw"`.

    Returns:
        The score model in evaluation mode, on the CPU.

    Raises:
        FileNotFoundError: If the weights are not on this machine; the message says how to get them.
        OSError: If they cannot be downloaded.
        ValueError: If there are none of that name, or they are not the right ones; or if the class refuses a setting.
    """
    return _load(name, "score model", ScoreModel, download, settings)


def load_classifier(name: str, download: bool = False, **settings: Any) -> nn.Module:
    """Build a classifier, from images (B, C, H, W) in [0, 1] to logits (B, K), with its weights.

    Arguments and errors are those of `load_score_model`; `torchvision:resnet50` and the like are names, too, see `zoo`.

    Returns:
        The classifier in evaluation mode, on the CPU.
    """
    if is_zoo(name):
        return zoo_classifier(name, download=download, **settings)
    return _load(name, "classifier", nn.Module, download, settings)


def load_purifier(
    name: str,
    score_model: ScoreModel | str | None = None,
    classifier: nn.Module | str | None = None,
    noise: Knowledge | None = None,
    download: bool = False,
    **settings: Any,
) -> Purifier:
    """Build a purifier as it is configured.

    Args:
        name: A file of configs/purifier/ without its ending, such as `pursamere`.
        score_model: A score model or its name; None: that of the purifier's paper or data set.
        classifier: What guides purifiers that ask the classifier of their defence (COUP), or its name; None: a
            `Defense` gives its own.
        noise: What attackers know of its noise, see `Purifier.under`; None: as in its paper.
        download: Whether to download weights that are not on this machine.
        settings: Arguments of its class other than those that it is configured with, such as `rho_pur=2.0`.

    Raises:
        FileNotFoundError: If weights are not on this machine; the message says how to get them.
        OSError: If they cannot be downloaded.
        ValueError: If there is no purifier of that name, it lacks a score model, or its class refuses a setting.
    """
    if (file := part(name, ["purifier"])) is None:
        raise ValueError(f"no purifier is called {name!r}; known: {', '.join(names_of(['purifier']))}")
    if score_model is None and (own := score_model_of(name)):
        score_model = load_score_model(own["score_model"], download, **{k: v for k, v in own.items() if k == "weights"})
    elif isinstance(score_model, str):
        score_model = load_score_model(score_model, download)
    if isinstance(classifier, str):
        classifier = load_classifier(classifier, download)
    return complete(build(Purifier | Recipe, _with(read_yaml(file), settings)), score_model, noise, classifier)


def _load(name: str, kind: str, base: type, download: bool, settings: dict[str, Any]) -> Any:
    entry = find(name)
    if entry.kind != kind:
        raise ValueError(f"{name} is a {entry.kind}: load_{entry.kind.replace(' ', '_')}({name!r})")
    if download:
        get(entry)
    return build(base, _with(configuration_of(entry), settings)).eval()


def _with(content: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A class and its arguments, some of them changed."""
    return {**content, "init_args": {**content.get("init_args", {}), **settings}}
