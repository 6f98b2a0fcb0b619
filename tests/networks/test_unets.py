"""Laws of all U-Nets, and of the parts they share."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks import DDPMpp, DDPMUNet, GuidedUNet, SongUNet, fused
from lit_pursamere.networks.unet_parts import ResidualBlock, attend, group_norm, sinusoidal_embedding

# Two levels, of which the first, 8 pixels wide, attends.
SMALL = {
    DDPMpp: {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,), "dropout": 0.3},
    SongUNet: {"model_channels": 8, "channel_mult": (1, 2), "num_blocks": 1, "attn_resolutions": (8,), "dropout": 0.3},
    DDPMUNet: {
        "block_out_channels": (8, 16),
        "attention": (True, False),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "dropout": 0.3,
    },
    GuidedUNet: {
        "model_channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (8,),
        "num_head_channels": 4, "norm_num_groups": 2, "learn_sigma": False, "dropout": 0.3,
    },
}  # fmt: skip
TIMES = torch.tensor([0.0, 0.25, 10.0, 500.5, 999.0], dtype=torch.float64)

every_unet = pytest.mark.parametrize("unet", list(SMALL), ids=lambda unet: unet.__name__)


def build(unet: type[nn.Module], dtype: torch.dtype = torch.float32, **changes) -> nn.Module:
    """Small network in eval mode whose weights are all of order one, unlike those of a new network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = unet(**{"channels": 1, "image_size": 8} | SMALL[unet] | changes)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            else:
                parameter.data += 0.2 * torch.randn(parameter.shape)
    return network.to(dtype).eval()


def pictures(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def distance(actual: Tensor, expected: Tensor) -> float:
    """Largest relative l2 distance of an image."""
    return ((actual - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max().item()


@every_unet
def test_an_image_alone_gives_the_same_output_as_in_a_batch(unet):
    network, x = build(unet, torch.float64), pictures(5, 1, 8, 8)
    with torch.no_grad():
        together = network(x, TIMES)
        alone = torch.cat([network(x[i : i + 1], TIMES[i : i + 1]) for i in range(5)])
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    assert together.std() > 1e-2


@every_unet
def test_first_and_second_derivatives_agree_with_finite_differences(unet):
    network = build(unet, torch.float64).requires_grad_(False)
    x = pictures(2, 1, 8, 8).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: network(x, TIMES[1:3]), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: network(x, TIMES[1:3]), (x,), fast_mode=True)


@every_unet
def test_float32_agrees_with_float64(unet):
    network, x = build(unet), pictures(5, 1, 8, 8)
    with torch.no_grad():
        single, double = network(x.float(), TIMES.float()), network.double()(x, TIMES)
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert 1e-9 < distance(single.double(), double) < 1e-4


@every_unet
def test_times_of_any_type_are_the_same_times(unet):
    network, x, times = build(unet), pictures(2, 1, 8, 8).float(), torch.tensor([3, 700])
    with torch.no_grad():
        expected = network(x, times.float())
        assert torch.equal(network(x, times), expected)
        assert torch.equal(network(x, times.double()), expected)


@every_unet
def test_output_follows_the_time_continuously(unet):
    network, x = build(unet, torch.float64), pictures(1, 1, 8, 8)
    with torch.no_grad():
        here, near, far = (network(x, torch.tensor([10 + step], dtype=torch.float64)) for step in (0, 1e-4, 0.5))
    assert distance(far, here) > 1e-3
    assert 0 < distance(near, here) < 1e-2 * distance(far, here)


@every_unet
def test_bfloat16_autocast_and_channels_last_change_only_rounding(unet):
    network, x = build(unet), pictures(5, 1, 8, 8).float()
    with torch.no_grad():
        expected = network(x, TIMES.float())
        with torch.autocast("cpu", torch.bfloat16):
            coarse = network(x, TIMES.float())
        network = network.to(memory_format=torch.channels_last)
        last = network(x.to(memory_format=torch.channels_last), TIMES.float())
    assert coarse.dtype == torch.bfloat16
    assert 1e-4 < distance(coarse.float(), expected) < 0.05
    assert distance(last, expected) < 1e-5


@every_unet
@pytest.mark.parametrize(("channels", "size"), [(3, 16), (1, 28), (2, 2)])
def test_images_of_other_shapes(unet, channels, size):
    network = build(unet, channels=channels, image_size=size)
    x = pictures(2, channels, size, size).float()
    with torch.no_grad():
        out = network(x, TIMES[:2].float())
    assert out.shape == x.shape and out.isfinite().all() and out.std() > 1e-2


@every_unet
def test_dropout_acts_in_training_only(unet):
    network, sure, x = build(unet), build(unet, dropout=0.0), pictures(2, 1, 8, 8).float()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = network(x, TIMES[:2])
        assert torch.equal(network(x, TIMES[:2]), expected)
        assert not torch.equal(network.train()(x, TIMES[:2]), network(x, TIMES[:2]))
        assert torch.equal(sure.train()(x, TIMES[:2]), expected)


@every_unet
def test_a_new_network_predicts_almost_nothing_but_trains_every_parameter(unet):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = unet(**SMALL[unet] | {"channels": 1, "image_size": 8, "dropout": 0.0}).double()
    x = pictures(4, 1, 8, 8)
    error = (network(x, TIMES[:4]) - x).square().mean()
    assert error.item() == pytest.approx(x.square().mean().item(), rel=1e-3)
    gradients = torch.autograd.grad(error, list(network.parameters()))  # raises if the graph misses one
    silent = [name for (name, _), g in zip(network.named_parameters(), gradients, strict=True) if not g.any()]
    assert silent == (["map_augment.weight"] if unet is SongUNet else [])


@pytest.mark.parametrize(
    ("unet", "name", "gain"),
    [
        (DDPMpp, "NIN_0.W", 0.1**0.5),
        (DDPMpp, "NIN_3.W", 1e-5),
        (SongUNet, "qkv.weight", 0.2**0.5),
        (SongUNet, "proj.weight", 1e-5),
        (DDPMUNet, "to_q.weight", 1),
        (DDPMUNet, "to_out.0.weight", 1e-5),
    ],
)
def test_attention_starts_with_the_gains_of_its_paper(unet, name, gain):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = [tensor for key, tensor in unet(**SMALL[unet]).state_dict().items() if key.endswith(name)]
    assert weights
    for weight in weights:
        limit = gain * (6 / sum(weight.shape[:2])) ** 0.5
        assert 0.8 * limit < weight.abs().max() <= 1.0001 * limit


@every_unet
@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"channels": 0}, "1 and 0"),
        ({"image_size": 9}, "got 9"),
        ({"image_size": 0}, "got 0"),
        ({"dropout": 1.0}, "got 1.0"),
        ({"dropout": -0.1}, "got -0.1"),
    ],
)
def test_bad_arguments_are_named(unet, arguments, value):
    with pytest.raises(ValueError, match=f"{unet.__name__} .*{value}"):
        unet(**{"channels": 1, "image_size": 8} | SMALL[unet] | arguments)


def test_attention_is_softmax_attention_and_treats_pixels_alike():
    q, k, v = pictures(3, 2, 6, 5)
    assert torch.allclose(attend(q, k, v), F.scaled_dot_product_attention(q, k, v), rtol=0, atol=1e-14)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled = attend(q[:, order], k[:, order], v[:, order])
    assert torch.allclose(shuffled, attend(q, k, v)[:, order], rtol=0, atol=1e-14)


def test_sinusoidal_embedding_is_its_formula():
    embedding = sinusoidal_embedding(TIMES, 8, torch.float64)
    angles = [[t * 10000 ** (-i / 3) for i in range(4)] for t in TIMES.tolist()]
    sines, cosines = ([[f(angle) for angle in row] for row in angles] for f in (math.sin, math.cos))
    parts = [sines, cosines]
    expected = torch.cat([torch.tensor(part, dtype=torch.float64) for part in parts], dim=1)
    assert torch.allclose(embedding, expected, rtol=0, atol=1e-12)
    coarse = sinusoidal_embedding(TIMES.float(), 8, torch.bfloat16)
    assert coarse.dtype == torch.bfloat16
    assert torch.allclose(coarse.double(), expected, rtol=0, atol=5e-3)  # angles of 999 need more bits than the result


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (48, 12), (128, 32), (384, 32)])
def test_a_group_has_at_least_four_channels_and_there_are_at_most_32(channels, groups):
    assert group_norm(channels).num_groups == groups
    assert group_norm(channels, 2).num_groups == 2


@pytest.mark.parametrize("resample", [None, nn.AvgPool2d(2), nn.Upsample(scale_factor=2)])
def test_a_new_block_is_its_scaled_shortcut_but_listens_to_the_embedding_once_trained(resample):
    block = ResidualBlock("abcdef", 4, 8, 16, 0.0, resample=resample, scale=0.7).double()
    x, emb, change = pictures(2, 4, 8, 8), pictures(2, 16), torch.ones(2, 16, dtype=torch.float64)
    with torch.no_grad():
        shortcut = 0.7 * F.conv2d(x if resample is None else resample(x), block.f.weight)
        assert 0 < distance(block(x, emb), shortcut) < 1e-3
        block.e.weight *= 1e5
        assert distance(block(x, emb + change), block(x, emb)) > 1e-3


@pytest.mark.parametrize(("channels", "groups"), [(6, 4), (2, None), (132, None), (8, 0)])
def test_channels_that_do_not_split_into_groups_are_named(channels, groups):
    with pytest.raises(ValueError, match=f"split {channels} channels"):
        group_norm(channels, groups)


def test_sinusoidal_embedding_with_the_cosines_first_and_the_last_frequency_above_the_end():
    embedding = sinusoidal_embedding(TIMES, 8, torch.float64, shift=0, cosine_first=True)
    angles = [[t * 10000 ** (-i / 4) for i in range(4)] for t in TIMES.tolist()]
    cosines, sines = ([[f(angle) for angle in row] for row in angles] for f in (math.cos, math.sin))
    expected = torch.cat([torch.tensor(part, dtype=torch.float64) for part in (cosines, sines)], dim=1)
    assert torch.allclose(embedding, expected, rtol=0, atol=1e-12)


@every_unet
def test_kernels_change_only_rounding_and_run_at_every_norm_that_is_activated(unet, built, monkeypatch):
    network, x = build(unet).requires_grad_(False).to(memory_format=torch.channels_last), pictures(3, 1, 8, 8).float()
    asked = []
    monkeypatch.setattr(fused, "call", lambda name, *a, call=fused.call: (asked.append(name), call(name, *a)))

    def answer() -> tuple[Tensor, Tensor]:
        y = x.clone().requires_grad_()
        out = network(y, TIMES[1:4].float())
        return out.detach(), torch.autograd.grad(out.square().sum(), y)[0]

    found = answer()
    activated = 1 + 2 * sum(isinstance(part, ResidualBlock) for part in network.modules())
    assert asked == ["group_norm_silu"] * activated + ["group_norm_silu_back"] * activated
    monkeypatch.setattr(fused, "fast", lambda h: False)
    assert all(distance(a, b) < 1e-5 for a, b in zip(found, answer(), strict=True))


@every_unet
@pytest.mark.slow
def test_a_compiled_network_takes_the_plain_formulas_in_one_graph(unet, built, monkeypatch):
    network = build(unet).requires_grad_(False).to(memory_format=torch.channels_last)
    x, times = pictures(2, 1, 8, 8).float(), TIMES[:2].float()
    expected = network(x, times)
    monkeypatch.setattr(fused, "call", None)  # would fail
    assert torch.allclose(torch.compile(network, backend="eager", fullgraph=True)(x, times), expected, atol=1e-5)
