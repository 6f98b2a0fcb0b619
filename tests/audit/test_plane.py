"""Planes of two ways: orthogonal axes, exact ends, straight lines that stay straight."""

import pytest
import torch

from lit_pursamere.attacks import PGD
from lit_pursamere.audit.plane import losses_at, on_plane, plane_of, seen_flat
from lit_pursamere.defense import Defense
from lit_pursamere.purifiers import Identity
from lit_pursamere.threat import ThreatModel


@pytest.fixture
def ways():
    """Two displacements of three images."""
    return torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_axes_are_orthogonal_of_one_length_and_hold_both_ends(ways):
    axes = plane_of(*ways)
    gram = torch.einsum("abchw,dbchw->bad", axes, axes)
    assert torch.allclose(gram, gram[:, :1, :1] * torch.eye(2, dtype=torch.float64), atol=1e-12)
    ends = on_plane(ways, axes)
    assert torch.allclose(ends[0], torch.tensor([1.0, 0.0], dtype=torch.float64))
    again = ends[1, :, 0, None, None, None] * axes[0] + ends[1, :, 1, None, None, None] * axes[1]
    assert torch.allclose(again, ways[1]) and (ends[1, :, 1] > 0).all()


@pytest.mark.parametrize("scale", [0, 2], ids=["nowhere", "the same way"])
def test_ways_that_span_no_plane_have_one_axis(ways, scale):
    axes = plane_of(ways[0], scale * ways[0])
    assert torch.equal(axes[0], ways[0]) and not axes[1].any() and on_plane(ways, axes).isfinite().all()
    assert on_plane(ways, plane_of(0 * ways[0], ways[1])).isfinite().all()


def test_the_plane_that_is_seen_keeps_distances_of_what_lies_in_one(ways):
    steps = torch.linspace(0, 1, 6, dtype=torch.float64)[None, :, None, None, None, None]
    flat = seen_flat(steps * ways[:, None])
    assert flat.shape == (2, 6, 3, 2)
    for b in range(3):
        there, here = ((steps * ways[:, None])[:, :, b].flatten(0, 1).flatten(1), flat[:, :, b].flatten(0, 1))
        assert torch.allclose(torch.cdist(here, here), torch.cdist(there, there), atol=1e-12)


def test_neighbourhoods_are_seen_as_well(ways):
    steps = torch.linspace(0, 1, 4, dtype=torch.float64)[None, :, None, None, None, None]
    flat = seen_flat(steps * ways[:, None, :1], "tsne", seed=1)
    assert flat.shape == (2, 4, 1, 2) and flat.isfinite().all()
    assert torch.equal(flat, seen_flat(steps * ways[:, None, :1], "tsne", seed=1))


def test_pgd_goes_straight_where_the_loss_is_linear(images, linear_classifier):
    y = linear_classifier(images).argmax(1)
    attack = PGD(ThreatModel("l2", 0.1), "exact", 5, step_size=0.02, loss="ce")
    linear_classifier[1].weight.data[2] = linear_classifier[1].weight.data[1]  # two classes: one direction
    path = attack.iterates(linear_classifier, images, y)
    flat = seen_flat(path[None])[0]
    assert torch.allclose(flat[..., 1], torch.zeros_like(flat[..., 1]), atol=1e-8)
    steps = flat.diff(dim=0)[..., 0].abs()
    assert torch.allclose(steps, torch.full_like(steps, 0.02), atol=1e-6)


def test_losses_are_those_of_images_in_the_box(images, linear_classifier):
    y = torch.zeros(8, dtype=torch.long)
    points = torch.stack([images, images + 5])
    values, wrong = losses_at(Defense(Identity(), linear_classifier), points, y, "margin", torch.arange(8))
    assert torch.equal(wrong[0] > 0, values[0] > 0) and wrong.shape == (2, 8)
    logits = linear_classifier(torch.ones_like(images[:1]))[0]
    assert torch.allclose(values[1], (logits[1:].max() - logits[0]).expand(8))
