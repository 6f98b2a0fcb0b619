"""Whether images, classifier and score models fit together, from one image each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.estimate.prices import LEVEL
from lit_pursamere.evaluation.calls import networks_of
from lit_pursamere.preflight.examined import Doubt, Examined, first_line

__all__ = ["score_models", "shapes"]


def shapes(examined: Examined) -> list[Doubt]:
    """Doubts about shapes: of what goes into the networks and of what comes out."""
    found = classifier_fits(examined)
    for network in score_models(examined):
        found += score_model_fits(examined, network)
    return found


def score_models(examined: Examined) -> list[ScoreModel]:
    """Those of purifier and surrogate, each once."""
    purifiers = [part for part in (examined.defense.purifier, examined.defense.surrogate) if part is not None]
    found = [network for purifier in purifiers for network in networks_of(purifier).values()]
    return list({id(network): network for network in found if isinstance(network, ScoreModel)}.values())


def classifier_fits(examined: Examined) -> list[Doubt]:
    defense = examined.defense
    answer = told(examined.ask, defense.classifier, f"classifier {type(defense.classifier).__name__}", examined)
    if isinstance(answer, Doubt):
        return [answer]
    try:
        with torch.no_grad():
            defense.classify(examined.x[:1])  # checks the answer
    except ValueError as error:
        return [Doubt(str(error), stops=True)]
    return []


def score_model_fits(examined: Examined, score_model: ScoreModel) -> list[Doubt]:
    name, size = f"score model {type(score_model).__name__}", examined.x.shape[3]
    network = getattr(score_model, "network", score_model)
    answer = told(lambda images: score_model.denoise(images, LEVEL), network, name, examined)
    if isinstance(answer, Doubt):
        return [answer]
    if answer.shape[1:] != examined.x.shape[1:]:
        shape = tuple(answer.shape[1:])
        return [Doubt(f"the {name} turns images {examined.shape} into {shape}: take one for such images", stops=True)]
    made_for = getattr(network, "image_size", size)
    if made_for == size:
        return []
    mend = f"set its image_size to {size}, or that of the data to {made_for}, whichever it was trained at"
    return [Doubt(f"the {name} is for images of {made_for} pixels, and these have {size}: {mend}")]


@torch.no_grad()
def told(ask: Callable[[Tensor], Tensor], network: nn.Module, name: str, examined: Examined) -> Any:
    """What a network answers to an image, or a doubt that says why it does not."""
    try:
        return ask(examined.x[:1])
    except Exception as error:  # a stranger's network may raise anything
        given, wanted = examined.x.shape[1], channels_of(network)
        if wanted in (given, None):
            return Doubt(f"the {name} does not take images {examined.shape}: {first_line(error)}", stops=True)
        mend = f"give it images of {wanted} (`data.channels`), or take one, and weights, for {given}"
        return Doubt(
            f"the {name} is for {wanted} channel(s), and images {examined.shape} have {given}: {mend}", stops=True
        )


def channels_of(network: nn.Module) -> int | None:
    """Channels that the first convolution of a network takes; None: it has none."""
    return next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), None)
