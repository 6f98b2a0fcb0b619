"""Draws of a step in one batch, in several, and one by one: the same attack, and as few calls as there are chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import APGD, AutoAttack, Square
from lit_pursamere.attacks.folded import FoldedView, mean_margin
from lit_pursamere.attacks.library import LibraryView
from lit_pursamere.diffusion.image_noise import follow, keyed_normal, next_keys
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.threat import ThreatModel

NORMS = {"linf": 0.1, "l2": 0.3, "l1": 1.5}
EOT = 6
KINDS = {
    "apgd": lambda threat: APGD(threat, steps=8, eot=EOT, evaluations=3),
    "apgd-margin": lambda threat: APGD(threat, loss="margin", steps=8, eot=EOT, evaluations=3),
    "apgd-dlr": lambda threat: APGD(threat, loss="dlr", steps=8, eot=EOT, evaluations=3),
    "apgd-dlr-t": lambda threat: APGD(threat, loss="dlr-t", steps=8, eot=EOT, targets=2, evaluations=3),
    "square": lambda threat: Square(threat, queries=20, eot=EOT, evaluations=3),
    "rand": lambda threat: AutoAttack(threat, version="rand", steps=5, eot=EOT, evaluations=3),
}


class Noisy(nn.Module):
    """A small network behind Gaussian noise that follows the images; counts its calls and the images of each."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(72, 16), nn.Tanh(), nn.Linear(16, 5)).double()
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return 5 * self.body(x.double() + 0.2 * keyed_normal(next_keys(x), 0, 1, x)[0].double())


def images() -> tuple[Tensor, Tensor]:
    x = torch.rand((7, 2, 6, 6), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, Noisy().body(x.double()).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_draws_in_one_batch_are_those_of_calls_in_turn(kind, norm):
    """What runs propose; decisions draw by the bytes of an image, where rounding makes other ones."""
    x, y = images()
    attack, found, largest = KINDS[kind](ThreatModel(norm, NORMS[norm])), {}, {}
    for chunk in (1, 4, None):
        view = Noisy()
        runs = replace(attack, eot_chunk=chunk).runs(LibraryView(view, x.dtype, 5, lambda: None))
        with forked_randomness(0):
            found[chunk] = torch.cat([candidate for run in runs for candidate in run.attempt(x, y)])
        largest[chunk] = max(view.batches)
    assert not torch.equal(found[1][: len(x)], x)
    assert all(torch.allclose(found[1], found[chunk], atol=1e-5) for chunk in (4, None))
    assert largest == {1: len(x), 4: 4 * len(x), None: EOT * len(x)}


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_a_folded_gradient_is_the_mean_of_those_of_its_draws(chunk):
    """A library's own loop, and the one call in its place, under noise that follows the images."""
    (x, y), view = images(), Noisy()
    x = x.double()
    loss = nn.CrossEntropyLoss(reduction="none")
    points = x.clone().requires_grad_()
    with follow(torch.arange(len(x))):
        each = []
        for _ in range(EOT):
            logits = view(points)
            each.append(torch.autograd.grad(loss(logits, y).sum(), points)[0])
    folded, view.batches = FoldedView(view, EOT, chunk, loss), []
    folded.labels = y
    with follow(torch.arange(len(x))):
        last = folded(points)
        found = torch.autograd.grad(loss(last, y).sum(), points)[0]
    assert torch.allclose(found, sum(each) / EOT, rtol=1e-9, atol=1e-12)
    assert torch.allclose(last, logits, rtol=1e-9)
    assert len(view.batches) == -(-EOT // (chunk or EOT))


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_a_folded_margin_is_the_mean_over_draws(chunk):
    (x, y), view = images(), Noisy()
    with torch.no_grad(), follow(torch.arange(len(x))):
        draws = [view(x) for _ in range(EOT)]
    own = torch.stack([z.scatter(1, y[:, None], -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0] for z in draws])
    with torch.no_grad(), follow(torch.arange(len(x))):
        assert torch.allclose(mean_margin(view, x, y, EOT, chunk), own.mean(0), rtol=1e-9)
