"""COUP is the reverse process from the image itself plus the gradient of the classifier's best log-probability."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import SeededNoise, VariancePreserving, reverse_sde_step, vp_noise, vp_score
from lit_pursamere.purifiers import COUP

VP = VariancePreserving()


class Counted(nn.Module):
    """Remembers how many images it classified."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.count = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += len(x)
        return self.inner(x)


def weight_of(linear_classifier: nn.Module) -> Tensor:
    return linear_classifier[1].weight.detach()


def analytic_guidance(linear_classifier: nn.Module, u: Tensor) -> Tensor:
    """grad_u log max_y p(y | (u + 1) / 2) of a linear classifier: half of W_y - sum_k p_k W_k."""
    weight = weight_of(linear_classifier)
    probabilities = (((u + 1) / 2).flatten(1) @ weight.T).softmax(1)
    best = weight[probabilities.argmax(1)]
    return 0.5 * (best - probabilities @ weight).reshape(u.shape)


@pytest.mark.parametrize(
    ("arguments", "calls", "gaussians"),
    [({}, 100, 100), ({"sampler": "ddpm"}, 101, 100), ({"stochastic": False}, 100, 0), ({"t_star": 0.075}, 75, 75)],
)
def test_number_of_evaluations_and_gaussians(
    mixture, images, linear_classifier, watched, watched_noise, arguments, calls, gaussians
):
    model, classifier = watched(mixture), Counted(linear_classifier)
    COUP(model, classifier, **arguments)(images[:2], watched_noise)
    assert len(model.seen) == calls and classifier.count == 2 * calls
    assert watched_noise.drawn == [("reverse", k) for k in range(1, gaussians + 1)]


def test_without_guidance_it_is_the_reverse_sde_without_forward_noise(mixture, images, linear_classifier):
    classifier, u = Counted(linear_classifier), 2 * images - 1
    for k, (_, dt, beta, alpha_bar) in enumerate(VP.reverse_steps(0.1, 0, 1e-3), start=1):
        z = SeededNoise(6).draw("reverse", k, 1, images)[0]
        u = reverse_sde_step(u, vp_score(mixture, u, alpha_bar), beta, dt, z)
    purified = COUP(mixture, classifier, lam=0, seed=6).under("fixed")(images)
    assert torch.allclose(purified, ((u + 1) / 2).clamp(0, 1), rtol=0, atol=1e-12)
    assert classifier.count == 0


@pytest.mark.parametrize("lam", [0.5, 2.0])
def test_a_plain_transcription_with_a_linear_classifier(mixture, images, linear_classifier, lam):
    """The factor 1/2 of the centred gradient is in it, and the class that is picked anew at every step."""
    u = 2 * images - 1
    times = [0.1 - 0.01 * k for k in range(10)]
    for k, t in enumerate(times, start=1):
        beta, alpha_bar = 0.1 + 19.9 * t, VP.alpha_bar(torch.tensor(t, dtype=torch.float64)).item()
        z = SeededNoise(0).draw("reverse", k, 1, images)[0]
        s = -vp_noise(mixture, u, alpha_bar) / (1 - alpha_bar) ** 0.5 + lam * analytic_guidance(linear_classifier, u)
        u = u + (0.5 * beta * u + beta * s) * 0.01 + (beta * 0.01) ** 0.5 * z
    purified = COUP(mixture, linear_classifier, lam=lam, dt=1e-2).under("fixed")(images)
    assert torch.allclose(purified, ((u + 1) / 2).clamp(0, 1), rtol=0, atol=1e-12)


def test_a_plain_transcription_of_the_ddpm_sampler(mixture, images, linear_classifier):
    powers, u = VP.alpha_bar_table.tolist(), 2 * images - 1
    for k, i in enumerate(range(100, -1, -20), start=1):
        lower = powers[i - 20] if i else 1.0
        beta = 1 - powers[i] / lower
        xi_hat = vp_noise(mixture, u, powers[i])
        clean = ((u - (1 - powers[i]) ** 0.5 * xi_hat) / powers[i] ** 0.5).clamp(-1, 1)
        mean = lower**0.5 * beta * clean + (1 - beta) ** 0.5 * (1 - lower) * u
        mean = mean / (1 - powers[i]) + beta * analytic_guidance(linear_classifier, u)
        u = mean + (beta**0.5 * SeededNoise(0).draw("reverse", k, 1, images)[0] if i else 0)
    purified = COUP(mixture, linear_classifier, sampler="ddpm", dt=0.02).under("fixed")(images)
    assert torch.allclose(purified, ((u + 1) / 2).clamp(0, 1), rtol=0, atol=1e-12)


def test_guidance_raises_the_confidence(mixture, images, linear_classifier):
    def confidence(lam: float) -> Tensor:
        purified = COUP(mixture, linear_classifier, lam=lam, dt=5e-3, stochastic=False)(images)
        return linear_classifier(purified).log_softmax(1).amax(1).mean()

    assert confidence(0) < confidence(1) < confidence(10)


@pytest.mark.parametrize("arguments", [{"dt": 0.03}, {"sampler": "ddpm", "dt": 0.05}], ids=["sde", "ddpm"])
def test_the_exact_gradient_agrees_with_finite_differences_and_without_recomputation(
    mixture, images, smooth_classifier, arguments
):
    purifier = COUP(mixture, smooth_classifier, lam=5.0, **arguments).under("fixed")
    x = images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)
    (exact,) = torch.autograd.grad(purifier(x).square().sum(), x)
    purifier.recompute = False
    (kept,) = torch.autograd.grad(purifier(x).square().sum(), x)
    purifier.first_order = True
    (first_order,) = torch.autograd.grad(purifier(x).square().sum(), x)
    assert torch.allclose(kept, exact, rtol=0, atol=1e-12)
    assert (first_order - exact).norm() > 1e-3 * exact.norm()


def test_without_the_classifiers_curvature_the_gradient_counts_its_push_as_constant(mixture, images, smooth_classifier):
    purifier = COUP(mixture, smooth_classifier, lam=5.0, t_star=0.05, dt=0.05).under("fixed")
    purifier.first_order = True
    x = images[:2].clone().requires_grad_()
    (first_order,) = torch.autograd.grad(purifier(x).sum(), x)
    (unguided,) = torch.autograd.grad(
        COUP(mixture, smooth_classifier, lam=0, t_star=0.05, dt=0.05).under("fixed")(x).sum(), x
    )
    assert torch.allclose(first_order, unguided, rtol=0, atol=1e-12)


def test_values_are_the_same_with_and_without_gradients(mixture, images, smooth_classifier):
    purifier = COUP(mixture, smooth_classifier, dt=0.02).under("fixed")
    plain, followed = purifier(images), purifier(images.clone().requires_grad_())
    with torch.no_grad():
        assert torch.equal(purifier(images), plain)
    assert torch.equal(followed, plain) and followed.requires_grad and not plain.requires_grad


def test_both_networks_are_frozen(mixture, linear_classifier):
    purifier = COUP(mixture, linear_classifier.train()).train()
    assert not any(p.requires_grad for p in purifier.parameters())
    assert not any(module.training for module in purifier.modules())


def test_the_classifier_of_the_defence_guides_unless_another_is_named(mixture, linear_classifier, images):
    other = nn.Sequential(nn.Flatten(), nn.Linear(8, 3, dtype=torch.float64))
    unguided = COUP(mixture, lam=2.0, dt=0.05).under("fixed")
    expected = COUP(mixture, linear_classifier, lam=2.0, dt=0.05).under("fixed")
    defense = Defense(unguided, linear_classifier, surrogate=unguided)
    assert torch.equal(defense.purify(images), expected(images))
    assert defense.settings == Defense(expected, linear_classifier, surrogate=expected).settings
    assert defense.surrogate.classifier is defense.purifier.classifier is linear_classifier
    assert unguided.classifier is None and unguided.settings["classifier"] is None, "the purifier itself stays"
    own = Defense(COUP(mixture, other, lam=2.0, dt=0.05).under("fixed"), linear_classifier)
    assert own.purifier.classifier is other and not torch.allclose(own.purify(images), expected(images))
    with pytest.raises(ValueError, match="COUP is guided by a classifier"):
        unguided(images)
    assert COUP(mixture, lam=0, dt=0.05)(images).shape == images.shape


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ({"lam": -1.0}, "-1.0"),
        ({"sampler": "heun"}, "heun"),
        ({"t_star": 0.0}, "0.0"),
        ({"sampler": "ddpm", "dt": 1e-5}, "1e-05"),
        ({"sampler": "ddpm", "t_star": 1.0}, "1.0"),
    ],
)
def test_bad_arguments_are_named(mixture, linear_classifier, arguments, value):
    with pytest.raises(ValueError, match=value):
        COUP(mixture, linear_classifier, **arguments)
