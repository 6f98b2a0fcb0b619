"""Lemma 1: whatever the score model, its training objective and the error of its score differ by the same number."""

import pytest
import torch

from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.worlds import score_matching, theory


class Waves(ScoreModel):
    """Knows nothing of any density."""

    def forward(self, y, sigma):
        return torch.sin(9 * y) + sigma * y.square()


MODELS = [
    *(theory.smooth_mixture_score(std=std) for std in (0.05, 0.1, 0.3)),
    theory.smooth_mixture_score((0.5,), 0.2),
    theory.smooth_mixture_score((0.1, 0.6), 0.1),
    Waves(),
]


@pytest.mark.parametrize("sigma", [0.05, 0.1, 1.0])
def test_the_objective_is_the_error_of_the_score_and_a_constant(sigma):
    losses = torch.tensor([score_matching.denoising_loss(model, sigma) for model in MODELS], dtype=torch.float64)
    errors = torch.tensor([score_matching.score_error(model, sigma) for model in MODELS], dtype=torch.float64)
    constants = losses - errors
    assert losses.max() - losses.min() > 0.1
    assert constants.max() - constants.min() < 1e-7


def test_the_constant_is_the_least_loss_and_at_most_the_dimension():
    """It is the mean of the reconstruction error under the exact score, eqs. (10) and (11)."""
    exact, sigma = theory.smooth_mixture_score(), 0.1
    least = score_matching.denoising_loss(exact, sigma)
    assert score_matching.score_error(exact, sigma) == 0
    assert least < 1
    assert all(score_matching.denoising_loss(model, sigma) > least for model in MODELS if model is not MODELS[1])


def test_the_loss_is_the_mean_of_the_reconstruction_error():
    """By Gauss-Hermite nodes, of which the module knows nothing."""
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    x = (x + torch.tensor([0.25, 0.75], dtype=torch.float64).repeat(10_000)).reshape(-1, 1, 1, 1)
    errors = theory.exact_reconstruction_error(MODELS[3], x, 0.1)
    expected = score_matching.denoising_loss(MODELS[3], 0.1)
    assert expected == pytest.approx(float(errors.mean()), abs=4 * float(errors.std()) / len(x) ** 0.5)
