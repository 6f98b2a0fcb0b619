"""The extra corrector takes one Langevin step before every predictor step; without it the reverse SDE is left."""

from __future__ import annotations

import pytest
import torch

from lit_pursamere.diffusion import SeededNoise, VariancePreserving, diffuse, reverse_sde_step, vp_score
from lit_pursamere.purifiers import ExtraCorrector

VP = VariancePreserving()


def test_number_of_network_evaluations_and_gaussians(mixture, images, watched, watched_noise):
    model = watched(mixture)
    purifier = ExtraCorrector(model)
    purifier(images[:1], watched_noise)
    assert len(model.seen) == 202 and len(watched_noise.drawn) == 203
    assert watched_noise.drawn[:3] == [("forward", 0), ("reverse", 1), ("reverse", 1)]
    assert (purifier.steps[0].t, purifier.steps[-1].t) == pytest.approx((0.101, 0.001))
    assert purifier.alpha_bar == pytest.approx(0.89514, abs=1e-5)


@pytest.mark.parametrize("snr", [0.16, 0.0])
def test_a_plain_transcription(mixture, images, snr):
    """snr 0 leaves the reverse SDE; the ratio of norms is taken per image."""
    noise, x = SeededNoise(2), images
    u = diffuse(2 * x - 1, VP.start(0.1), noise.draw("forward", 0, 1, x)[0])
    for k in range(1, 11):
        t = 0.11 - 0.01 * k
        alpha_bar = VP.alpha_bar(torch.tensor(t, dtype=torch.float64)).item()
        beta_i = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)[int(999 * t)]
        z_corrector, z = noise.draw("reverse", k, 2, x)
        score = vp_score(mixture, u, alpha_bar)
        lengths = score.flatten(1).norm(dim=1)[:, None, None, None]
        eps = 2 * (1 - beta_i) * (snr * z_corrector.norm() / lengths) ** 2
        u = u + eps * score + (2 * eps).sqrt() * z_corrector
        u = reverse_sde_step(u, vp_score(mixture, u, alpha_bar), 0.1 + 19.9 * t, 0.01, z if k < 10 else 0.0)
    purified = ExtraCorrector(mixture, t_star=0.1, snr=snr, dt=1e-2, seed=2).under("fixed")(x)
    assert torch.allclose(purified, ((u + 1) / 2).clamp(0, 1), rtol=0, atol=1e-12)


def test_the_exact_gradient_agrees_with_finite_differences_and_without_recomputation(mixture, images):
    purifier, x = ExtraCorrector(mixture, t_star=0.1, dt=0.03).under("fixed"), images[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(purifier, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)
    (expected,) = torch.autograd.grad(purifier(x).square().sum(), x)
    purifier.recompute = False
    (kept,) = torch.autograd.grad(purifier(x).square().sum(), x)
    assert torch.allclose(kept, expected, rtol=0, atol=1e-12) and expected.norm() > 0


@pytest.mark.parametrize(("arguments", "value"), [({"snr": -1.0}, "-1.0"), ({"t_star": 2.0}, "2.0")])
def test_bad_arguments_are_named(mixture, arguments, value):
    with pytest.raises(ValueError, match=value):
        ExtraCorrector(mixture, **arguments)
