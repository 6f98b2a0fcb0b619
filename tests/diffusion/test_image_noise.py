"""Noise that follows an image is Gaussian, and a function of its key, of nothing around it."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from lit_pursamere.attacks.gradients import loss_gradient
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import FreshNoise, NoiseTables, PartlySeededNoise, SeededNoise
from lit_pursamere.diffusion.image_noise import follow, image_keys, keyed_normal, repeated_draws, stepped
from lit_pursamere.purifiers import DiffPure

LIKE = torch.zeros(6, 3, 5, 5)
SOURCES = [FreshNoise(), PartlySeededNoise(3), NoiseTables(64)]


def draws(source, keys, like):
    with follow(keys):
        noise = source.once(like)
        draws = [noise.draw(stream, k, 2, like) for stream in ("forward", "reverse") for k in (0, 1)]
        return torch.cat([draw.expand(2, *like.shape) for draw in draws])


def test_draws_are_standard_normal_and_uncorrelated():
    z = keyed_normal(torch.arange(40), 7, 25, torch.zeros(40, 1, 20, 20))
    assert z.shape == (25, 40, 1, 20, 20)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs((z**4).mean().item() - 3) < 0.05
    images = torch.corrcoef(z.reshape(1000, 400))  # between draws and images
    pixels = torch.corrcoef(z.reshape(1000, 400).T)
    for matrix, samples in ((images, 400), (pixels, 1000)):
        matrix.fill_diagonal_(0)
        assert matrix.abs().max() < 6 / samples**0.5


def test_an_odd_number_of_pixels_and_the_precision_do_not_matter():
    keys = torch.tensor([5, -7])
    single, double = (keyed_normal(keys, 1, 1, torch.zeros(2, 3, 3, 3).to(t)) for t in (torch.float32, torch.float64))
    assert double.dtype == torch.float64 and torch.equal(single.double(), double)


@pytest.mark.parametrize("source", SOURCES, ids=["fresh", "partly", "tables"])
def test_noise_depends_on_the_image_and_not_on_its_neighbours(source):
    keys = image_keys(torch.arange(6), 0, "ADP", "PGD")
    whole, order = draws(source, keys, LIKE), torch.tensor([4, 2, 5])
    assert torch.equal(draws(source, keys[order], LIKE[:3]), whole[:, order])
    state = torch.get_rng_state()
    assert torch.equal(draws(source, keys, LIKE), whole) and torch.equal(torch.get_rng_state(), state)
    for other in (image_keys(torch.arange(6), 1, "ADP", "PGD"), stepped(keys, 1), keys.roll(1)):
        assert not torch.equal(draws(source, other, LIKE), whole)


def test_copies_and_later_purifications_of_an_image_have_noise_of_their_own():
    keys = torch.arange(3)
    with follow(keys):
        copies = FreshNoise().draw("forward", 0, 1, LIKE)[0]  # two copies of three images
        later = FreshNoise().draw("forward", 0, 1, LIKE[:3])[0]
    every = torch.cat([copies, later]).flatten(1)
    assert torch.pdist(every).min() > 1
    with follow(keys):
        one_by_one = [FreshNoise().draw("forward", 0, 1, LIKE[:3])[0] for _ in range(3)]
    assert torch.equal(torch.cat(one_by_one).flatten(1), every), "chunks of copies draw what all copies draw at once"


def test_noise_can_be_wound_back_and_ends_with_its_context():
    keys = torch.arange(6)
    with follow(keys):
        with repeated_draws():
            first = FreshNoise().draw("level", 1, 1, LIKE)
        again, next_ = (FreshNoise().draw("level", 1, 1, LIKE) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(again, next_)
    assert not torch.equal(FreshNoise().draw("level", 1, 1, LIKE), FreshNoise().draw("level", 1, 1, LIKE))


def test_a_batch_that_is_no_multiple_of_the_images_is_refused():
    with follow(torch.arange(4)), pytest.raises(ValueError, match="follows 4 images, but 6"):
        FreshNoise().once(LIKE)


@pytest.mark.parametrize("mode", ["grad_mean", "logit_mean"])
def test_gradients_do_not_depend_on_chunks_or_on_the_batch(mode, mixture, images, linear_classifier):
    view, y = Defense(DiffPure(mixture, dt=0.025), linear_classifier), torch.arange(8) % 3
    keys = image_keys(torch.arange(8), 0)

    def gradient(rows, chunk):
        with follow(keys[rows]):
            return loss_gradient(view, images[rows], y[rows], eot=4, mode=mode, chunk=chunk)[0]

    whole = gradient(slice(None), None)
    assert torch.allclose(gradient(slice(None), 2), whole, rtol=0, atol=1e-12)
    assert torch.allclose(gradient(slice(3, 5), 1), whole[3:5], rtol=0, atol=1e-12)


def test_copies_of_an_ensemble_have_their_own_noise():
    assert SeededNoise(5).copy(0) == SeededNoise(5) and SeededNoise(5).copy(2) == SeededNoise(5, (2,))
    assert PartlySeededNoise(5).copy(0) == PartlySeededNoise(5)
    assert PartlySeededNoise(5).copy(1) == PartlySeededNoise(5, branch=(1,))
    assert FreshNoise().copy(3) == FreshNoise() and NoiseTables(3).copy(3) == NoiseTables(3)
