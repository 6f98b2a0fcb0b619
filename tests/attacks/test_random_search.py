"""Random search: where its points lie, that it keeps the best, and that it asks for values only."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.attacks import RandomSearch
from lit_pursamere.threat import ThreatModel

NORMS = {"linf": 0.1, "l2": 0.2, "l1": 0.3}


class Spy(nn.Module):
    """Passes everything on without a gradient and remembers the images and the margins it gave."""

    def __init__(self, inner: nn.Module, y: Tensor) -> None:
        super().__init__()
        self.inner, self.y, self.seen, self.margins = inner, y, [], []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.inner(x.detach()).detach()
        others = logits.scatter(1, self.y[:, None], -torch.inf).amax(1)
        self.seen.append(x.clone())
        self.margins.append(others - logits.gather(1, self.y[:, None])[:, 0])
        return logits


@pytest.fixture
def labels(linear_classifier, images) -> Tensor:
    """Classes of a classifier whose borders run through the images."""
    with torch.no_grad():
        linear_classifier[1].bias.copy_(-linear_classifier(images).mean(0))
    return linear_classifier(images).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
def test_points_lie_inside_and_on_the_surface(norm, linear_classifier, labels):
    x = torch.full((8, 2, 2, 2), 0.5, dtype=torch.float64)
    threat, spy = ThreatModel(norm, NORMS[norm]), Spy(linear_classifier, labels)
    RandomSearch(threat, draws=20)(spy, x, labels)
    assert len(spy.seen) == 41 and torch.equal(spy.seen[0], x)
    inside = torch.stack([threat.distance(point, x) for point in spy.seen[1::2]])
    surface = torch.stack([threat.distance(point, x) for point in spy.seen[2::2]])
    assert inside.max() <= threat.eps * (1 + 1e-9) and len(inside[:, 0].unique()) == 20
    assert torch.allclose(surface, torch.full_like(surface, threat.eps), rtol=1e-9)
    sizes = (torch.stack(spy.seen[2::2]) - x)[:, 0].abs()
    if norm == "linf":
        assert torch.allclose(sizes, torch.full_like(sizes, threat.eps), rtol=1e-9)
    else:
        assert len(sizes.unique()) == sizes.numel()


@pytest.mark.parametrize("norm", NORMS)
def test_the_best_is_kept_and_any_is_the_first_success(norm, linear_classifier, images, labels):
    spy = Spy(linear_classifier, labels)
    outcome = RandomSearch(ThreatModel(norm, 10 * NORMS[norm]), draws=30)(spy, images, labels)
    margins = torch.stack(spy.margins)
    for i in range(len(images)):
        best = 1 + margins[1:, i].argmax()
        assert torch.allclose(outcome.last[i], spy.seen[best][i], rtol=0, atol=1e-12)
        hits = torch.nonzero(margins[:, i] > 0).flatten().tolist()
        first = spy.seen[hits[0]][i] if hits else outcome.last[i]
        assert torch.allclose(outcome.any[i], first, rtol=0, atol=1e-12)
    assert (margins > 0).any()


def test_it_finds_the_corner_of_a_small_cube():
    linear = nn.Linear(3, 2, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 1.0]]))
        linear.bias.zero_()
    x = torch.full((2, 3, 1, 1), 0.5, dtype=torch.float64)
    outcome = RandomSearch(ThreatModel("linf", 0.1), draws=60)(
        nn.Sequential(nn.Flatten(), linear), x, torch.zeros(2).long()
    )
    best = x + 0.1 * (linear.weight[1] - linear.weight[0]).detach().sign().reshape(3, 1, 1)
    assert torch.allclose(outcome.last, best, rtol=0, atol=1e-12)


def test_an_image_that_is_wrong_from_the_start_counts_as_fooled(linear_classifier, images, labels):
    outcome = RandomSearch(ThreatModel("linf", 0.1), draws=2)(linear_classifier, images, (labels + 1) % 3)
    assert torch.equal(outcome.any, images)


def test_progress_and_bad_settings(linear_classifier, images, labels):
    calls = []
    attack = RandomSearch(ThreatModel("linf", 0.1), draws=2)
    attack(linear_classifier, images, labels, lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(ValueError, match="draws >= 1; got 0"):
        RandomSearch(ThreatModel("linf", 0.1), draws=0)
