"""ADDT: the recorded noise, ranks, shares, and a climb that misleads the frozen classifier."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from lit_pursamere.diffusion import (
    VP,
    ADDTLinfObjective,
    ADDTObjective,
    DDPMObjective,
    EDMObjective,
    GaussianMixtureScore,
    ScoreModel,
    VPObjective,
    noise_residual,
)
from lit_pursamere.diffusion.addt import rank_mapped
from lit_pursamere.diffusion.guidance import evaluating


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Unit(ScoreModel):
    """Estimates noise by one convolution of the centred, scaled image, as a network of the VP family does."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.network = nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh(), nn.Dropout(0.5)
            ).double()

    def forward(self, y, sigma):
        return self.network((2 * y - 1) / (1 + (2 * torch.as_tensor(sigma).reshape(-1, 1, 1, 1)) ** 2).sqrt())


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.arange(8) % 3


def test_the_mapping_is_the_recorded_one(golden_tensors):
    recorded = golden_tensors("addt/rbgm")
    assert torch.equal(rank_mapped(recorded["delta"], recorded["gaussian"]), recorded["mapped"])


def test_the_noise_is_the_recorded_one(golden_tensors):
    recorded = golden_tensors("addt/rbgm")
    assert torch.allclose(VP.alpha_bar_table.float(), recorded["alphas_cumprod"], rtol=2e-6)
    objective = ADDTObjective(classifier=None)
    sigma = VP.sigma_table / 2
    assert torch.allclose(objective.share(sigma[recorded["t"]]).float(), recorded["lambda_t"], rtol=1e-5)
    power = recorded["alphas_cumprod"][recorded["t_batch"]]  # float32, as recorded: 1 - power is rounded with it
    signal, sigma = (
        each.double().reshape(-1, 1, 1, 1) for each in (power.sqrt(), (1 - power).sqrt() / power.sqrt() / 2)
    )
    noise = objective.mixed(recorded["eps"].double(), recorded["mapped"].double(), sigma.flatten())
    assert torch.allclose(noise, recorded["target"].double(), rtol=0, atol=1e-6)
    y = (recorded["x0"].double() + 1) / 2 + sigma * noise
    assert torch.allclose(signal * (2 * y - 1), recorded["x_t_prime"].double(), rtol=0, atol=1e-6)


def test_the_mapping_keeps_the_draws_and_takes_the_ranks():
    delta, gaussian = (torch.randn(3, 2, 5, 5, generator=generator(seed)) for seed in (1, 2))
    mapped = rank_mapped(delta, gaussian)
    for image in range(3):
        for channel in range(2):
            one, ranks = mapped[image, channel].flatten(), delta[image, channel].flatten()
            assert torch.equal(one.sort().values, gaussian[image, channel].flatten().sort().values)
            assert torch.equal(one.argsort(), ranks.argsort()), "Spearman's correlation is 1"
    assert torch.equal(mapped[1:2], rank_mapped(delta[1:2], gaussian[1:2])), "an image knows no neighbours"


@pytest.mark.parametrize(
    ("index", "share"), [(0, 0.3), (26, 0.3), (50, 0.170), (100, 0.088), (200, 0.041), (500, 0.009)]
)
def test_shares_of_the_arranged_noise(index, share):
    found = ADDTObjective(classifier=None).share(VP.sigma_table[index] / 2)
    assert found.item() == pytest.approx(share, abs=6e-4)


def test_eq_8_with_gamma_squared_is_the_error_of_the_noise(mixture, images):
    sigma = torch.linspace(0.05, 0.6, 8, dtype=torch.float64)
    noise = torch.randn(images.shape, generator=generator(), dtype=torch.float64)
    gamma = 1 / (2 * sigma)
    clean = mixture.denoise(images + sigma.reshape(-1, 1, 1, 1) * noise, sigma)  # P(x_t, t) in [0, 1] pixels
    eq_8 = gamma**2 * (2 * (images - clean)).square().flatten(1).sum(1)
    residual = noise_residual(mixture, images, sigma, noise[None])[0]
    loss = DDPMObjective().weight(sigma, 8) * 8 * residual.square().flatten(1).sum(1)
    assert torch.allclose(eq_8, loss, rtol=1e-10)


@pytest.mark.parametrize("base", [DDPMObjective(), VPObjective(t_min=1e-3), EDMObjective()], ids=repr)
@pytest.mark.parametrize("kind", [ADDTObjective, ADDTLinfObjective])
def test_levels_and_weights_are_those_of_the_base(kind, base, linear_classifier):
    objective = kind(base, classifier=linear_classifier)
    assert objective.levels == base.levels
    assert torch.equal(objective.draw_levels(9, generator()), base.draw_levels(9, generator()))
    sigma = torch.tensor([0.1, 0.4])
    assert torch.equal(objective.weight(sigma, 12), base.weight(sigma, 12))


@pytest.mark.parametrize("kind", [ADDTObjective, ADDTLinfObjective])
@pytest.mark.parametrize("guided", [True, False], ids=["classifier", "mse"])
def test_the_noise_raises_what_guides_it_on_images_held_out(kind, guided, linear_classifier, mixture):
    """Against the same noise without a climb, at the levels where purification starts."""
    x = 0.15 + 0.7 * torch.rand((400, 2, 2, 2), generator=generator(9), dtype=torch.float64)
    labels = linear_classifier(mixture.denoise(x, 0.1)).argmax(1)

    class Levels(DDPMObjective):
        def draw_levels(self, count, generator=None):
            return torch.full((count,), 0.05)

    strong = {"lambda_unit": 0.1} if kind is ADDTObjective else {}
    objective = kind(Levels(), classifier=linear_classifier if guided else None, **strong)
    sigma, noise, extra = objective.draw(x, labels, mixture, generator(1))
    plain = torch.randn(noise[0].shape, generator=generator(2), dtype=torch.float64)
    attacked, before = (objective.error(mixture, x, sigma, each, labels).mean() for each in (noise[0], plain))
    assert attacked > 1.05 * before
    assert extra == 0 and noise.shape == (1, *x.shape) and not noise.requires_grad


def test_addt_noise_is_gaussian_pixel_by_pixel(linear_classifier, mixture):
    x = 0.15 + 0.7 * torch.rand((4000, 2, 2, 2), generator=generator(9), dtype=torch.float64)
    objective = ADDTObjective(classifier=linear_classifier)
    _, noise, _ = objective.draw(x, torch.zeros(4000, dtype=torch.long), mixture, generator(1))
    assert noise.mean().abs() < 0.02 and abs(noise.std() - 1) < 0.02
    assert abs((noise**4).mean() - 3) < 0.15


def test_climbing_leaves_the_score_model_as_it_is(linear_classifier, images, labels):
    model = Unit().train()
    for dropout in (True, False):
        seen = []
        hook = model.network[2].register_forward_hook(lambda part, *_, seen=seen: seen.append(part.training))
        ADDTObjective(classifier=linear_classifier, dropout=dropout).draw(images, labels, model)
        hook.remove()
        assert seen == [dropout] * 5
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(part.training for part in model.modules())


def test_modes_come_back_part_by_part():
    model = Unit().train()
    model.network[0].eval()
    with pytest.raises(KeyError), evaluating(model):
        assert not any(part.training for part in model.modules())
        raise KeyError
    assert [part.training for part in model.network] == [False, True, True] and model.training


def test_leaked_gradients_are_those_of_the_refinements(linear_classifier, images, labels):
    """The sum over the rounds of the gradients of their mean errors, and a loss that is no other."""
    model = Unit().eval()
    objective = ADDTObjective(classifier=linear_classifier, refinements=1, leak_ce_grad=True)
    sigma, noise, extra = objective.draw(images, labels, model, generator(4))
    assert extra.item() == 0
    extra.backward()
    draws = generator(4)
    objective.draw_levels(len(images), draws)
    arranged, gaussian = (torch.randn(images.shape, generator=draws, dtype=torch.float64) for _ in range(2))
    first = objective.mixed(gaussian, arranged, sigma)
    y = images + sigma.reshape(-1, 1, 1, 1) * first
    expected = torch.autograd.grad(
        cross_entropy(linear_classifier(model.denoise(y, sigma)), labels), list(model.parameters())
    )
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.allclose(weight.grad, gradient, rtol=1e-10, atol=1e-15)
    clean = ADDTObjective(classifier=linear_classifier, refinements=1)
    other = clean.draw(images, labels, model, generator(4))
    assert torch.equal(other.noise, noise) and other.extra == 0


def test_the_bounded_variant_moves_the_image(linear_classifier, mixture, images, labels):
    """Where r is gamma, sigma times its noise is Gaussian noise and the perturbation, within budget and box."""
    objective = ADDTLinfObjective(classifier=linear_classifier)
    gaussian = torch.randn(images.shape, generator=generator(), dtype=torch.float64)
    delta = 0.02 * torch.randn(images.shape, generator=generator(1), dtype=torch.float64)
    for sigma, share in ((0.3, 1.0), (0.05, 1.0), (0.01, 0.2)):
        noise = objective.shifted(gaussian, delta, torch.full((8,), sigma, dtype=torch.float64))
        assert torch.allclose(sigma * noise, sigma * gaussian + share * delta, atol=1e-12)
    seen = []

    class Watched(ADDTLinfObjective):
        def shifted(self, gaussian, delta, sigma):
            seen.append(delta.detach())
            return super().shifted(gaussian, delta, sigma)

    Watched(classifier=linear_classifier).draw(images, labels, mixture)
    assert len(seen) == 6 and not seen[0].any()
    assert seen[1].abs().max() == pytest.approx(4 / 255) and seen[-1].abs().max() == pytest.approx(8 / 255)
    assert (images + seen[-1]).min() >= 0 and (images + seen[-1]).max() <= 1


@pytest.mark.parametrize("kind", [ADDTObjective, ADDTLinfObjective])
def test_slopes_agree_with_finite_differences(kind, linear_classifier, mixture, images, labels):
    sigma = torch.linspace(0.05, 0.6, 8, dtype=torch.float64)
    gaussian = torch.randn(images.shape, generator=generator(), dtype=torch.float64)

    def error(free):
        objective = kind(classifier=linear_classifier)
        noise = (objective.mixed if kind is ADDTObjective else objective.shifted)(gaussian, free, sigma)
        return objective.error(mixture, images, sigma, noise, labels).sum()

    free = torch.randn(images.shape, generator=generator(1), dtype=torch.float64).mul_(0.02).requires_grad_()
    assert torch.autograd.gradcheck(error, (free,), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_without_a_classifier_the_error_is_the_mean_squared_one(mixture, images):
    sigma = torch.full((8,), 0.2, dtype=torch.float64)
    noise = torch.randn(images.shape, generator=generator(), dtype=torch.float64)
    found = ADDTObjective(classifier=None).error(mixture, images, sigma, noise, None)
    assert found.mean().item() == pytest.approx(mse_loss(mixture(images + 0.2 * noise, sigma), noise).item())


def test_a_classifier_wants_labels(linear_classifier, mixture, images):
    with pytest.raises(ValueError, match="labels"):
        ADDTObjective(classifier=linear_classifier).draw(images, None, mixture)


def test_the_classifier_is_frozen_and_told(linear_classifier):
    network = copy.deepcopy(linear_classifier).train()
    objective = ADDTObjective(classifier=network)
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    facts = objective.facts()
    assert facts["guided_by"].startswith("Sequential, sha256 ") and "weight" not in facts["objective"]
    with torch.no_grad():
        network[1].weight += 1
    assert ADDTObjective(classifier=network).facts()["guided_by"] != facts["guided_by"]
    assert copy.deepcopy(objective) is objective
    assert ADDTObjective(classifier=None).facts()["guided_by"] is None


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (lambda: ADDTObjective(classifier=None, refinements=0), "got 0"),
        (lambda: ADDTObjective(ADDTObjective(classifier=None), classifier=None), "ADDTObjective$"),
        (lambda: ADDTObjective(classifier=None, lambda_unit=0), "got 0"),
        (lambda: ADDTObjective(classifier=None, lambda_min=0.5), "0.5"),
        (lambda: ADDTObjective(classifier=None, lambda_max=1.5), "1.5"),
        (lambda: ADDTObjective(classifier=None, lambda_unit=math.nan), "nan"),
        (lambda: ADDTLinfObjective(classifier=None, eps=2.0), "2"),
        (lambda: ADDTLinfObjective(classifier=None, eps=0.0), "got 0.0"),
        (lambda: ADDTLinfObjective(classifier=None, ratio_max=0), "0"),
    ],
)
def test_bad_arguments_are_named(build, value):
    with pytest.raises(ValueError, match=value):
        build()


def test_the_perfect_score_model_of_one_point_finds_all_noise(images, labels, linear_classifier):
    """For a single image the exact score model finds whatever noise it is shown, arranged or not."""
    model = GaussianMixtureScore(images[:1], std=0.0)
    x = images[:1].expand(8, -1, -1, -1)
    for kind in (ADDTObjective, ADDTLinfObjective):
        sigma, noise, _ = kind(classifier=linear_classifier).draw(x, labels, model, generator())
        assert noise_residual(model, x, sigma, noise).abs().max() < 1e-5
