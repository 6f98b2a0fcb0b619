"""Networks behind normalisation and resizing: torchvision's classifiers on small images."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.configuration.building import build
from lit_pursamere.configuration.composition import read_yaml
from lit_pursamere.networks import Normalised
from lit_pursamere.shipped import home

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def test_images_are_resized_and_then_normalised():
    x = torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    larger = F.interpolate(x, size=(20, 20), mode="bicubic", align_corners=False)
    expected = (larger - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(Normalised(nn.Identity(), MEAN, STD, resize=20)(x), expected, atol=1e-6)
    assert torch.equal(Normalised(nn.Identity(), MEAN, STD, resize=8)(x), Normalised(nn.Identity(), MEAN, STD)(x))


def test_gradients_pass_through_the_resizing():
    network = Normalised(nn.Conv2d(3, 2, 3), MEAN, STD, resize=7).double()
    x = torch.rand((1, 3, 5, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(network, (x,), fast_mode=True)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="at least one pixel; got resize 0"):
        Normalised(nn.Identity(), MEAN, STD, resize=0)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vgg16", 134_301_514), ("resnet50", 23_528_522), ("resnet152", 58_164_298), ("vit_b", 85_806_346)],
)
def test_torchvisions_classifiers_for_ten_classes(name, parameters):
    with torch.device("meta"):
        network = build(nn.Module, read_yaml(home("configs") / f"network/{name}.yaml"))
        if name == "vit_b":  # the one that refuses other sizes than 224
            assert network(torch.rand(1, 3, 32, 32)).shape == (1, 10)
    assert sum(p.numel() for p in network.parameters()) == parameters
