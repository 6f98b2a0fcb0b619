"""GuidedUNet is guided-diffusion's: names, count, outputs, gradients and learned variances are the recorded ones."""

from __future__ import annotations

import json

import pytest
import torch

from lit_pursamere.diffusion import VP, GuidedDiffusionScore, learned_variance
from lit_pursamere.networks import GuidedUNet
from lit_pursamere.weights.architectures import recognise

SMALL = {
    "model_channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 1, "attention_resolutions": (16, 8),
    "num_head_channels": 16, "image_size": 32,
}  # fmt: skip


@pytest.fixture
def recorded(golden_tensors, tmp_path):
    data = golden_tensors("guided_diffusion/unet_small")
    weights = {k.removeprefix("weights."): v for k, v in data.items() if k.startswith("weights.")}
    torch.save(weights, tmp_path / "released.pt")
    return GuidedDiffusionScore(**SMALL, checkpoint=str(tmp_path / "released.pt")).eval(), data


def close(found, expected):
    return bool(((found - expected).flatten(1).norm(dim=1) < 1e-5 * expected.flatten(1).norm(dim=1)).all())


def test_full_size_names_order_and_shapes_are_the_released_ones(golden):
    official = json.loads((golden / "guided_diffusion/keys_official.json").read_text())["256x256_diffusion_uncond"]
    with torch.device("meta"):
        network = GuidedUNet()
    shapes = [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]
    assert shapes == list(official["keys"].items())
    assert sum(p.numel() for p in network.parameters()) == official["parameters"] == 552_814_086
    known = "guided-diffusion's U-Net, 256 channels wide, with variance, 3 channels"
    assert recognise(network.state_dict()) == known


def test_outputs_and_vector_jacobian_products_are_the_recorded_ones(recorded):
    model, data = recorded
    x = data["x"].clone().requires_grad_()
    out = model.network(x, data["t"])
    (product,) = torch.autograd.grad(out, x, data["v"])
    assert close(out.detach(), data["out"]) and close(product, data["vjp"])


def test_means_and_learned_variances_are_the_recorded_ones(recorded):
    model, data = recorded
    assert data["t"].tolist() == [0, 250, 999]
    for i, index in enumerate(data["t"].tolist()):
        with torch.no_grad():
            mean, variance = model.step_moments(data["x"][i : i + 1], index)
        assert close(mean, data["p_mean"][i : i + 1]) and close(variance, data["p_variance"][i : i + 1])
        assert torch.allclose(variance.log(), data["p_log_variance"][i : i + 1], rtol=1e-5, atol=0)


def test_its_score_model_estimates_the_recorded_noise(recorded):
    model, data = recorded
    index, power = 250, float(VP.alpha_bar_table[250])
    y = (data["x"] / power**0.5 + 1) / 2
    with torch.no_grad():
        found = model.predict_noise(y, (1 / power - 1) ** 0.5 / 2)
        expected = model.network(data["x"], torch.full((3,), float(index)))[:, :3]
    assert close(found, expected), "the index is asked for by its level"
    assert found.shape == y.shape


def test_variances_lie_between_the_two_fixed_ones():
    v = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    small, middle, large = learned_variance(v, 0.5, 0.6).flatten().tolist()
    assert large == pytest.approx(1 - 0.5 / 0.6) and small == pytest.approx(large * 0.4 / 0.5)
    assert middle == pytest.approx((small * large) ** 0.5)


def test_without_a_learned_variance_none_is_told():
    model = GuidedDiffusionScore(**SMALL, learn_sigma=False)
    with pytest.raises(ValueError, match="learned no variance: it was built with learn_sigma false"):
        model.step_moments(torch.zeros(1, 3, 32, 32), 5)


def test_an_empty_batch_stays_empty():
    size = SMALL["image_size"]
    assert GuidedUNet(**SMALL)(torch.zeros(0, 3, size, size), torch.zeros(0)).shape[::2] == (0, size)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"attends with \[64\] channels, which heads of 48"):
        GuidedUNet(**SMALL | {"num_head_channels": 48})
