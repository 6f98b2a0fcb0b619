"""ADBM: the recorded pairs, the identities of the bridge, and a perturbation that misleads the frozen classifier."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from lit_pursamere.diffusion import VP, ADBMObjective, PreconditionedScore, ScoreModel, VPObjective, noise_residual
from lit_pursamere.diffusion.adbm import bridge_noise

RUNS = ("T0.1", "T0.2", "T1.0")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorded(nn.Module):
    """The convolution that was the network of the recording; remembers what it was asked."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x, label):
        self.asked = x, label
        return nn.functional.conv2d(x, self.weight, padding=1)


def levels(time: torch.Tensor) -> torch.Tensor:
    return VP.sigma_of_time(time) / 2


@pytest.mark.parametrize("run", RUNS)
def test_input_target_time_and_loss_are_the_recorded_ones(golden_tensors, run):
    recorded = golden_tensors("adbm/loss")
    x, delta = (recorded["x0"].double() + 1) / 2, (recorded["x_adv"] - recorded["x0"]).double() / 2
    time, end = recorded[f"{run}.t"].double(), recorded[f"{run}.noise_level"]
    network = Recorded(recorded["net_weight"].double())
    model, sigma = PreconditionedScore(network, "vp"), levels(time)
    noise = bridge_noise(recorded["z"].double(), delta, sigma, levels(end))
    scale = recorded[f"{run}.target"].abs().max()
    assert (noise - recorded[f"{run}.target"]).abs().max() < 2e-6 * scale
    residual = noise_residual(model, x, sigma, noise[None])[0]
    seen, label = network.asked
    assert (seen - recorded[f"{run}.x_t"]).abs().max() < 5e-6
    assert torch.allclose(label, recorded[f"{run}.time_cond"].double(), rtol=1e-5)
    objective = ADBMObjective(classifier=None)
    loss = objective.loss(residual, sigma, x, None).mean()
    assert loss.item() == pytest.approx(recorded[f"{run}.loss"].item(), rel=1e-5)
    signal = VP.alpha_bar(time).sqrt().reshape(-1, 1, 1, 1)
    clean = 2 * model.denoise(x + sigma.reshape(-1, 1, 1, 1) * noise, sigma) - 1
    assert (signal * (clean - recorded[f"{run}.x0_pred"])).abs().max() < 1e-5
    plain = noise_residual(model, x, sigma, recorded["z"].double()[None])[0]
    found = objective.loss(plain, sigma, x, None).mean().item()
    assert found == pytest.approx(recorded[f"{run}.loss_no_adv"].item(), rel=1e-5)


def test_times_are_drawn_as_recorded(golden, golden_tensors, monkeypatch):
    recorded, described = golden_tensors("adbm/loss"), json.loads((golden / "adbm/loss.json").read_text())["runs"]
    for run, last in (("T0.1", 0.1), ("T0.2", 0.2)):
        draws = torch.cat([torch.tensor([described[run]["u_for_noise_level"]]), recorded["u"].flatten()]).double()
        monkeypatch.setattr(torch, "rand", lambda *size, draws=draws, **_: draws)
        times, end = ADBMObjective(classifier=None, t_last=last).draw_times(4)
        assert end.item() == pytest.approx(recorded[f"{run}.noise_level"].item(), rel=1e-7)
        assert torch.allclose(times.float(), recorded[f"{run}.t"], rtol=1e-6)


def test_the_bridge_leads_from_the_diffused_attack_to_the_clean_image(images):
    delta = 0.03 * torch.randn(images.shape, generator=generator(1), dtype=torch.float64)
    z = torch.randn(images.shape, generator=generator(2), dtype=torch.float64)
    end = torch.tensor(0.17, dtype=torch.float64)
    for time in torch.linspace(1e-5, end, 20, dtype=torch.float64):
        alpha_bar, alpha_bar_end = VP.alpha_bar(time), VP.alpha_bar(end)
        noise = bridge_noise(z, delta, levels(time).expand(8), levels(end))
        u, du = 2 * images - 1, 2 * delta
        state = alpha_bar.sqrt() * u + (1 - alpha_bar).sqrt() * z
        state = state + du * alpha_bar_end * (1 - alpha_bar) / ((1 - alpha_bar_end) * alpha_bar.sqrt())
        target = z + du * ((1 - alpha_bar) / alpha_bar).sqrt() * alpha_bar_end / (1 - alpha_bar_end)
        assert torch.allclose(noise, target, rtol=0, atol=1e-9)
        assert torch.allclose(alpha_bar.sqrt() * (u + 2 * levels(time) * noise), state, rtol=0, atol=1e-9)
        assert ((state - (1 - alpha_bar).sqrt() * target) / alpha_bar.sqrt() - u).abs().max() < 1e-5
    diffused = alpha_bar.sqrt() * (u + du) + (1 - alpha_bar).sqrt() * z
    assert (state - diffused).abs().max() < 1e-5


def test_one_end_a_batch_and_a_time_an_image():
    objective = ADBMObjective(classifier=None)
    drawn = [objective.draw_times(64, generator(seed)) for seed in range(300)]
    ends = torch.stack([end for _, end in drawn])
    assert 0.1 <= ends.min() < 0.101 and 0.199 < ends.max() <= 0.2 and abs(ends.mean() - 0.15) < 0.006
    assert all(times.max() <= end and times.min() >= 1e-5 for times, end in drawn)
    shares = torch.cat([times / end for times, end in drawn])
    assert abs(shares.mean() - 0.5) < 0.01 and abs(shares.var() - 1 / 12) < 0.003


class Counting(ScoreModel):
    """Remembers in which mode and at which levels it was asked, and for what image."""

    def __init__(self, model: ScoreModel) -> None:
        super().__init__()
        self.model, self.asked = model, []

    def forward(self, y, sigma):
        self.asked.append((self.training, sigma, y.detach()))
        return self.model(y, sigma)


@pytest.mark.parametrize("guided", [True, False], ids=["classifier", "bridge"])
def test_the_perturbation_raises_what_guides_it_on_images_held_out(guided, linear_classifier, mixture):
    x = 0.15 + 0.7 * torch.rand((400, 2, 2, 2), generator=generator(9), dtype=torch.float64)
    labels = linear_classifier(mixture.denoise(x, 0.1)).argmax(1)
    objective = ADBMObjective(classifier=linear_classifier if guided else None)
    model = Counting(mixture).train()
    sigma, noise, extra = objective.draw(x, labels, model, generator(3))
    assert extra == 0 and model.training and not noise.requires_grad
    assert [mode for mode, *_ in model.asked] == [False] * 3
    assert all(torch.equal(level, sigma) for _, level, _ in model.asked), "t and T are frozen over the steps"
    y = x + sigma.reshape(-1, 1, 1, 1) * noise[0]
    moved = (y - model.asked[0][2]).abs().flatten(1).amax(1)
    assert 0 < moved.max() <= 2 * 8 / 255 + 1e-9, "so is z: the perturbation is all that changes"
    z = torch.randn(x.shape, generator=generator(5), dtype=torch.float64)
    attacked, before = (objective.error(mixture, x, sigma, each, labels).mean() for each in (noise[0], z))
    assert attacked > before


def test_the_error_agrees_with_finite_differences(linear_classifier, mixture, images):
    labels, end = torch.arange(8) % 3, torch.tensor(0.18, dtype=torch.float64)
    sigma = torch.linspace(0.02, 0.18, 8, dtype=torch.float64)
    z = torch.randn(images.shape, generator=generator(), dtype=torch.float64)
    for classifier in (linear_classifier, None):
        objective = ADBMObjective(classifier=classifier)

        def error(delta, objective=objective):
            return objective.error(mixture, images, sigma, bridge_noise(z, delta, sigma, end), labels).sum()

        delta = torch.zeros_like(images).requires_grad_()
        assert torch.autograd.gradcheck(error, (delta,), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_weights_and_samples_are_those_of_the_base(mixture):
    objective, sigma = ADBMObjective(classifier=None), torch.tensor([0.1, 0.2])
    assert torch.equal(objective.weight(sigma, 12), VPObjective().weight(sigma, 12))
    shape = (2, 2, 2, 2)
    ours, base = (each.sample(mixture, shape, generator()) for each in (objective, VPObjective()))
    assert torch.equal(ours, base)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"refinements": 0}, "got 0"),
        ({"eps": 0.0}, "0.0"),
        ({"eps": 8.0}, "8/255"),
        ({"step_size": 0.0}, "0.0"),
        ({"t_min": 0.0}, "got 0.0"),
        ({"t_first": 0.3}, "0.3"),
        ({"t_last": 1.5}, "1.5"),
    ],
)
def test_bad_arguments_are_named(arguments, value):
    with pytest.raises(ValueError, match=value):
        ADBMObjective(classifier=None, **arguments)
