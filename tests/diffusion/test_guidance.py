"""On digits that no network saw, noise that follows an attack misleads the shipped classifier more than other noise."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere import load_classifier, load_score_model
from lit_pursamere.data import Digits
from lit_pursamere.diffusion import ADBMObjective, ADDTLinfObjective, ADDTObjective


@pytest.fixture(scope="module")
def world():
    """Score model, classifier, and 48 test images with their labels."""
    data = Digits(test_size=48)
    data.prepare_data()
    data.setup("test")
    x, y, _ = zip(*(data.sources["test"][i] + (i,) for i in data.test_indices()), strict=True)
    return load_score_model("digits/ncsnv2"), load_classifier("digits/wrn-10-2-pairs"), torch.stack(x), torch.tensor(y)


def start(_, count, generator=None):
    return torch.full((count,), 0.17)  # where DDPM's purification starts, and ADBM's bridge ends


@pytest.mark.parametrize(
    ("kind", "settings", "factor"),
    [
        (ADDTObjective, {"lambda_unit": 0.1}, 3),
        (ADDTLinfObjective, {"eps": 0.15, "step_size": 0.075}, 20),
        (ADBMObjective, {"eps": 0.15, "step_size": 0.15}, 3),
    ],
)
def test_the_frozen_classifier_is_misled(world, monkeypatch, kind, settings, factor):
    score_model, classifier, x, y = world
    objective = kind(classifier=classifier, **settings)
    monkeypatch.setattr(kind, "draw_levels", start)
    torch.manual_seed(0)
    sigma, noise, _ = objective.draw(x, y, score_model)
    with torch.no_grad():
        attacked, plain = (
            objective.error(score_model, x, sigma, each, y).mean().item() for each in (noise[0], torch.randn_like(x))
        )
    assert attacked > factor * plain
