"""Planted examples lie where they should, and only they are adversarial."""

import pytest
import torch
from torch import nn

from lit_pursamere.audit import plant
from lit_pursamere.audit.binarization import at_distance, inner_points, random_direction, random_points, readout_layer
from lit_pursamere.defense import Defense
from lit_pursamere.purifiers import Identity
from lit_pursamere.threat import ThreatModel

THREATS = [ThreatModel("linf", 0.1), ThreatModel("l2", 0.5), ThreatModel("l1", 2.0)]


def image():
    """An image of which a third of the pixels lies on the walls of the box."""
    return (1.5 * torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(0)) - 0.25).clamp(0, 1)


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_points_lie_at_their_distance_inside_the_box(threat):
    x = image().expand(20, 1, 8, 8)
    direction = random_direction(x, threat, torch.Generator().manual_seed(1))
    distance = torch.linspace(0, threat.eps, 20)
    points = at_distance(x, direction, threat, distance)
    torch.testing.assert_close(threat.distance(points, x), distance, atol=1e-5, rtol=0)
    assert points.min() >= 0 and points.max() <= 1


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_inner_points_keep_away_from_the_sphere(threat):
    points = inner_points(image(), 200, threat, torch.Generator().manual_seed(2))
    distance = threat.distance(points, image().expand_as(points))
    assert distance[0] == 0 and len(points) == 201
    assert 0.85 * threat.eps < distance.max() <= 0.9501 * threat.eps
    assert threat.distance(random_points(image(), 5, threat, 0), image()).min() > 0.999 * threat.eps


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_the_planted_point_is_adversarial_and_its_surroundings_are_not(threat):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    planted, point = plant(Defense(Identity(), network), image(), threat)
    assert planted(image()).argmax(1) == 0 and planted(point).argmax(1) == 1
    assert planted(image()).shape == (1, 2)
    torch.testing.assert_close(threat.distance(point, image()), torch.tensor([threat.eps]), atol=1e-5, rtol=0)
    for share in (0.95, 0.99):
        assert planted(torch.lerp(image(), point, share)).argmax(1) == 0, "only what is next to it is adversarial"
    inner = inner_points(image(), 49, threat, torch.Generator().manual_seed(9))
    assert not planted(inner).argmax(1).any()
    assert network[3].out_features == 10, "the classifier itself is left alone"


def test_too_many_points_for_the_features_plant_nothing():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2), nn.Linear(2, 3))
    assert plant(Defense(Identity(), network), image(), THREATS[0], inner=200, seed=1) is None


def test_the_readout_is_found_behind_other_layers_and_its_absence_is_named():
    deep = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    assert readout_layer(deep, image()) == "3"
    assert readout_layer(nn.Sequential(nn.Identity(), deep), image()) == "1.3"
    with pytest.raises(ValueError, match="does not return the output of a linear layer"):
        readout_layer(nn.Sequential(deep, nn.Softmax(1)), image())
