"""What attackers know of a purifier's noise, told by name; the draws, the settings and the refusals are those."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_pursamere.diffusion import FreshNoise, GaussianMixtureScore, NoiseTables, PartlySeededNoise, SeededNoise
from lit_pursamere.purifiers import DP_DDIM, DP_DDPM, DiffPure, Identity, PurSAMERE
from lit_pursamere.tasks import LitRobustness

X = torch.rand((3, 1, 4, 4), generator=torch.Generator().manual_seed(0))


def score() -> GaussianMixtureScore:
    return GaussianMixtureScore(torch.full((1, 1, 4, 4), 0.5), 0.2)


@pytest.mark.parametrize("seed", [0, 5])
def test_every_kind_by_name(seed):
    purifier = DP_DDPM(score(), steps=100, seed=seed)
    expected = {
        "fresh": FreshNoise(),
        "fixed": SeededNoise(seed),
        "forward": PartlySeededNoise(seed),
        7: NoiseTables(7, seed),
    }
    for kind, source in expected.items():
        told = purifier.under(kind)
        assert told.noise == source and told.score_model is purifier.score_model
        assert told.settings == purifier.settings | {"noise": kind} and told.settings["seed"] == seed
        assert told.under("fresh").noise == FreshNoise() and told.under("fixed").noise == SeededNoise(seed)
    assert purifier.settings["noise"] == "fresh", "the purifier itself stays as it is"


def test_the_draws_are_those():
    purifier = DP_DDIM(score(), steps=100)
    assert torch.equal(purifier.under("fixed")(X), DP_DDIM(score(), steps=100).under("fixed")(X))
    assert torch.equal(purifier.under("forward")(X), purifier.under("fixed")(X)), "it draws on the way forward only"
    assert not torch.equal(purifier.under("fresh")(X), purifier.under("fresh")(X))


@pytest.mark.parametrize(
    "purifier, kind, message",
    [
        (
            PurSAMERE(score(), sigmas=[0.1]),
            "forward",
            r"PurSAMERE draws nothing on a way forward \(its streams: level\)",
        ),
        (Identity(), "forward", "streams: none"),
        (DiffPure(score()), "semi", "got 'semi'"),
        (DiffPure(score()), True, "got True"),
        (DiffPure(score()), 0, "at least one table; got 0"),
    ],
)
def test_what_cannot_be_known_is_refused(purifier, kind, message):
    with pytest.raises(ValueError, match=message):
        purifier.under(kind)


@pytest.mark.parametrize("given", [DiffPure, DiffPure(score()), DiffPure(score()).under("fixed")])
def test_a_test_that_states_it_is_not_undone_by_the_purifier(given):
    task = LitRobustness(given, nn.Flatten(), {}, score_model=score(), noise="fresh")
    assert task.systems["DiffPure"].purifier.noise == FreshNoise()
    assert task.systems["DiffPure"].settings["purifier"]["noise"] == "fresh"
