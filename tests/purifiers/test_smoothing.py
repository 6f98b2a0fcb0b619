"""Randomised smoothing: noisy images are not clipped, and what takes the noise off knows it and is told once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import AutoencoderScore, DenoiserScore, GaussianMixtureScore, SeededNoise
from lit_pursamere.diffusion.image_noise import follow
from lit_pursamere.purifiers import COUP, DP_DDIM, DenoisedSmoothing, DiffPure, Identity, PurSAMERE
from lit_pursamere.purifiers.smoothing import SmoothedPurifier


class Seen(Identity):
    """Notes the images that it gets."""

    def purify(self, x, noise):
        self.seen = x
        return x


class Noting(GaussianMixtureScore):
    """Notes the images that it gets."""

    def forward(self, y, sigma):
        self.seen = y
        return super().forward(y, sigma)


def test_the_noisy_image_leaves_the_box_and_is_not_clipped(mixture, images):
    score = Noting(mixture.means, 0.1)
    xi = SeededNoise(0).draw("smoothing", 0, 1, images)[0]
    purified = DenoisedSmoothing(score, 0.7).under("fixed")(images)
    assert torch.equal(score.seen, images + 0.7 * xi) and score.seen.min() < 0 and score.seen.max() > 1
    assert torch.equal(purified, score.denoise(images + 0.7 * xi, 0.7).clamp(0, 1))
    inner = Seen()
    assert torch.equal(SmoothedPurifier(inner, 0.7).under("fixed")(images), (images + 0.7 * xi).clamp(0, 1))


def test_a_purifier_keeps_its_own_noise(mixture, images):
    """PurSAMERE's table stays one table; what draws fresh noise draws it anew, and follows the images."""
    keys = torch.arange(len(images))
    for inner, same in ((PurSAMERE(mixture, 0.5, 0.2, sigmas=[0.4, 0.2]), True), (DP_DDIM(mixture), False)):
        smoothed = SmoothedPurifier(inner, 0.2)
        y = images + 0.2
        first, second = (smoothed.clean(y, smoothed.noise.once(y)) for _ in range(2))
        assert torch.equal(first, second) == same
        with follow(keys):
            once = smoothed(images)
        with follow(keys):
            assert torch.equal(smoothed(images), once)
        assert not torch.equal(smoothed(images), once)


@pytest.mark.parametrize("inner", [DiffPure, COUP])
def test_views_and_classifier_reach_the_purifier_inside(inner, mixture, images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double()
    alone, smooth = (Defense(one, net) for one in (inner(mixture, dt=0.05), SmoothedPurifier(inner(mixture, dt=0.05))))
    assert smooth.views == alone.views
    assert inner != COUP or smooth.purifier.purifier.classifier is net
    for view in ("exact", "adjoint", "first_order"):
        x = images.clone().requires_grad_()
        smooth.view(view)(x).sum().backward()
        assert x.grad.abs().sum() > 0
    assert smooth.purifier.settings["purifier"]["class"] == inner.__name__


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda m: DenoisedSmoothing(m, 0.0), "DenoisedSmoothing needs sigma above 0; got 0.0"),
        (lambda m: SmoothedPurifier(Identity(), -1.0), "SmoothedPurifier needs sigma above 0; got -1.0"),
        (
            lambda m: DenoisedSmoothing(DenoiserScore(nn.Identity(), 75 / 255), 0.5),
            "knows noise of sigma 0 to 0.2941, and is to take off noise of sigma 0.5; choose a sigma among them",
        ),
        (
            lambda m: DenoisedSmoothing(AutoencoderScore(nn.Identity(), 0.01), 0.25),
            "knows noise of sigma 0.1 alone, and is to take off noise of sigma 0.25",
        ),
        (
            lambda m: SmoothedPurifier(DenoisedSmoothing(m, 0.5), 0.25),
            "the noise is told twice: DenoisedSmoothing begins with noise of sigma 0.5 itself",
        ),
    ],
)
def test_nonsense_is_refused(build, line, mixture):
    with pytest.raises(ValueError, match=line):
        build(mixture)
