"""The autoencoders have the layers of their papers, keep the shape, and see no other image of the batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_pursamere.networks import DenoisingAutoencoder, MagNetAutoencoder

NETWORKS = {
    "denoising": lambda channels: DenoisingAutoencoder(channels, 5),
    "magnet-1": lambda channels: MagNetAutoencoder(channels),
    "magnet-2": lambda channels: MagNetAutoencoder(channels, pooling=False),
}


@pytest.fixture(params=NETWORKS)
def build(request):
    torch.manual_seed(0)
    return NETWORKS[request.param]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 12, 16), (1, 28, 28)], ids=str)
def test_images_keep_their_shape_and_stay_in_the_box(build, shape):
    x = 3 * torch.randn(2, *shape)
    out = build(shape[0])(x)
    assert out.shape == x.shape and out.min() > 0 and out.max() < 1


def test_other_images_do_not_matter(build):
    network, x = build(1).double(), torch.rand(3, 1, 8, 8, dtype=torch.float64)
    alone = torch.cat([network(x[i : i + 1]) for i in range(3)])
    assert torch.allclose(network(x), alone, rtol=0, atol=1e-12)
    assert network(x).std(0).max() > 1e-4  # and its own image does


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        (DenoisingAutoencoder(), 320 + 18_496 + 36_928 + 18_464 + 289),
        (MagNetAutoencoder(), 30 + 3 * 84 + 28),
        (MagNetAutoencoder(pooling=False), 30 + 84 + 28),
        (MagNetAutoencoder(channels=3), 3 * 84 + 84 + 84),
    ],
    ids=["denoising", "magnet-1", "magnet-2", "magnet-rgb"],
)
def test_number_of_parameters(network, parameters):
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_magnet_is_the_stack_of_its_paper():
    """Table of the paper, layer by layer, as plain modules."""
    network = MagNetAutoencoder()
    convs = iter(network.convs)
    plan = ["conv", nn.AvgPool2d(2), "conv", "conv", nn.Upsample(scale_factor=2), "conv", "conv"]
    stack = nn.Sequential(*(nn.Sequential(next(convs), nn.Sigmoid()) if layer == "conv" else layer for layer in plan))
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(network(x), stack(x))


def test_the_code_has_a_quarter_of_the_size():
    network, sizes = DenoisingAutoencoder(1, 2), []
    for layer in network.children():
        layer.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    network(torch.rand(1, 1, 28, 28))
    assert sizes == [(2, 14, 14), (4, 7, 7), (4, 14, 14), (2, 28, 28), (1, 28, 28)]


@pytest.mark.parametrize(
    ("network", "size"),
    [(DenoisingAutoencoder(), (8, 6)), (DenoisingAutoencoder(), (9, 8)), (MagNetAutoencoder(), (8, 7))],
    ids=["width", "height", "magnet"],
)
def test_sizes_that_would_not_come_back_are_refused(network, size):
    with pytest.raises(ValueError, match=rf"multiples of \d; got {size[0]}x{size[1]}"):
        network(torch.rand(1, 1, *size))


def test_any_size_fits_without_pooling():
    x = torch.rand(1, 1, 7, 5)
    assert MagNetAutoencoder(pooling=False)(x).shape == x.shape


@pytest.mark.parametrize("network", [DenoisingAutoencoder, MagNetAutoencoder])
@pytest.mark.parametrize("wrong", [{"channels": 0}, {"width": -2}], ids=str)
def test_bad_numbers_are_named(network, wrong):
    with pytest.raises(ValueError, match=rf"{network.__name__}.*{next(iter(wrong.values()))}"):
        network(**wrong)


@pytest.mark.parametrize("name", ["denoising", "magnet-1"])
def test_both_learn_to_denoise(name):
    """Two images, noise of deviation 0.3: the error falls far below that of leaving the image as it is."""
    torch.manual_seed(0)
    network = NETWORKS[name](1) if name == "magnet-1" else DenoisingAutoencoder(1, 8)
    clean = torch.zeros(2, 1, 8, 8)
    clean[0, :, :, :4] = clean[1, :, :4] = 1
    optimiser = torch.optim.Adam(network.parameters(), 0.02)
    for _ in range(150):
        x = clean.repeat(16, 1, 1, 1)
        loss = F.mse_loss(network(x + 0.3 * torch.randn_like(x)), x)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.5 * 0.3**2


def test_images_of_much_black_do_not_switch_the_network_off():
    """From grey outputs on, this training ends in a network that is black for good."""
    torch.manual_seed(0)
    clean = torch.zeros(64, 1, 16, 16)
    for image, (row, column) in zip(clean, torch.randint(2, 10, (64, 2)).tolist(), strict=True):
        image[0, row : row + 4, column : column + 4] = 1
    network = DenoisingAutoencoder(channels=1, width=32)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(60):
        loss = (network(clean + 0.15**0.5 * torch.randn_like(clean)) - clean).square().sum((1, 2, 3)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 8  # of 16, the squared norm of an image: what black leaves
