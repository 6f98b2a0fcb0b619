"""What is seen of a purification on its way; that the last state is the result is a law, in test_laws.py."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.purifiers import DP_DDPM, Purifier, PurSAMERE
from lit_pursamere.purifiers.states import purify_watched


def test_pursamere_after_k_levels_is_pursamere_of_k_levels(mixture, images):
    """Where steps do not depend on how many follow, a state is what a shorter walk returns."""
    sigmas, seen = [0.4, 0.2, 0.1], {}
    settings = {"rho_sam": 0.2, "lr_max": 0.01, "lr_min": 0.01}
    purify_watched(PurSAMERE(mixture, 0.5, sigmas=sigmas, **settings), images, seen.__setitem__)
    for k in (1, 2, 3):
        assert torch.equal(seen[k], PurSAMERE(mixture, 0.5, sigmas=sigmas[:k], **settings)(images))


def test_states_of_a_diffusion_are_on_the_scale_of_images(mixture, images):
    seen = {}
    purify_watched(DP_DDPM(mixture, steps=100).under("fixed"), images, seen.__setitem__)
    assert len(seen) == 1 + 11 and (seen[11] - images).abs().mean() < 0.3
    assert all((state.mean() - 0.5).abs() < 0.2 for state in seen.values())


def test_it_stops_looking_when_somebody_fails(mixture, images):
    class Failing(Purifier):
        def purify(self, x, noise):
            (x,) = self.checkpointed(lambda x: (x,), x)
            raise RuntimeError("on the way")

    seen = []
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on the way"):
            purify_watched(Failing(mixture), images, lambda k, state: seen.append(k))
    assert seen == [0, 1, 0, 1]
