"""Exact numbers of the theory: reference values of Figure 1, closed forms, the order of Proposition 1."""

import pytest
import torch

from lit_pursamere.worlds import theory

GRID = torch.linspace(0, 1, 201, dtype=torch.float64)


def points(*values):
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("sigma", "positions", "depth"), [(0.1, (0.2209, 0.7791), 0.3518), (0.05, (0.2474, 0.7526), 0.6418)]
)
def test_minima_lie_near_the_modes_of_the_density(sigma, positions, depth):
    error = theory.exact_reconstruction_error(theory.truncated_mixture_score(), GRID.reshape(-1, 1, 1, 1), sigma)
    found, depths = theory.local_minima(GRID, error)
    assert found.tolist() == pytest.approx(positions, abs=1e-4)
    assert depths.tolist() == pytest.approx([depth, depth], abs=1e-4)


def test_truncation_makes_spurious_minima_at_small_noise():
    error = theory.exact_reconstruction_error(theory.truncated_mixture_score(), GRID.reshape(-1, 1, 1, 1), 0.02)
    found, _ = theory.local_minima(GRID, error)
    assert found.tolist() == pytest.approx([0.03, 0.25, 0.75, 0.97], abs=2e-3)


def test_reference_values_between_the_modes_and_at_the_border():
    error = theory.exact_reconstruction_error(theory.truncated_mixture_score(), points(0.5, 0.0, 1.0), 0.1)
    assert error.tolist() == pytest.approx([1.8123, 1.9861, 1.9861], abs=1e-4)


@pytest.mark.parametrize("sigma", [0.1, 0.02, 0.01])
def test_quadrature_has_converged(sigma):
    x = points(0.0, 0.03, 0.3, 0.5, 1.0)
    coarse = theory.exact_reconstruction_error(theory.truncated_mixture_score(), x, sigma)
    fine = theory.exact_reconstruction_error(theory.truncated_mixture_score(nodes=1000), x, sigma, nodes=160)
    torch.testing.assert_close(coarse, fine, rtol=0, atol=1e-6)


def test_one_level_per_point_equals_one_level_at_a_time():
    model, x, sigmas = theory.truncated_mixture_score(), points(0.2, 0.6), torch.tensor([0.1, 0.05])
    together = theory.exact_reconstruction_error(model, x, sigmas)
    apart = [theory.exact_reconstruction_error(model, x[i : i + 1], float(sigmas[i])) for i in range(2)]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-6, atol=0)


def test_only_one_pixel_is_accepted():
    with pytest.raises(ValueError, match=r"\(2, 1, 1, 3\)"):
        theory.exact_reconstruction_error(theory.truncated_mixture_score(), torch.zeros(2, 1, 1, 3), 0.1)


def test_the_truncated_density_integrates_to_one_on_the_unit_interval():
    density = theory.truncated_mixture_density(torch.linspace(-0.5, 1.5, 20001, dtype=torch.float64))
    assert float(density.sum() * 1e-4) == pytest.approx(1, abs=1e-4)
    assert theory.truncated_mixture_density(torch.tensor([-0.01, 1.01])).tolist() == [0, 0]


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
def test_gaussian_closed_form_equals_quadrature(sigma):
    x = points(-0.3, 0.1, 0.5, 0.9)
    exact = theory.exact_reconstruction_error(theory.smooth_mixture_score((0.4,), 0.2), x, sigma)
    torch.testing.assert_close(
        theory.gaussian_reconstruction_error(x, sigma, mean=0.4, std=0.2), exact, rtol=1e-12, atol=0
    )


def test_gaussian_closed_form_adds_up_over_pixels():
    x = torch.rand(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    single = theory.gaussian_reconstruction_error(x.reshape(-1, 1, 1, 1), 0.1)
    torch.testing.assert_close(theory.gaussian_reconstruction_error(x, 0.1), single.reshape(3, -1).sum(1))


def test_gaussian_expansion_is_known_in_any_dimension():
    mean, std, sigma = torch.full((1, 1, 2, 2), 0.5), 0.25, 0.01
    x = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    model = theory.GaussianMixtureScore(mean, std).double()
    square = ((x - 0.5) / std**2).square().sum((1, 2, 3))
    expected = 4 + sigma**2 * (square - 2 * 4 / std**2)
    torch.testing.assert_close(theory.proposition1_expansion(model, x, sigma), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("means", [(0.5,), theory.MEANS], ids=["gaussian", "mixture"])
def test_remainder_of_proposition_1_is_of_fourth_order(means):
    sigmas = torch.logspace(-3, -2, 6, dtype=torch.float64)
    remainder = theory.proposition1_remainder(theory.smooth_mixture_score(means), points(0.0, 0.2, 0.35, 0.5), sigmas)
    slope = theory.loglog_slope(sigmas, remainder)
    assert slope >= 3  # what the proposition says
    assert slope == pytest.approx(4, abs=0.1)


def test_gaussian_remainder_from_the_closed_form_has_the_same_order():
    x, sigmas = points(0.3), torch.logspace(-3, -2, 6, dtype=torch.float64)
    expansion = theory.proposition1_expansion(theory.smooth_mixture_score((0.5,)), x, sigmas)
    remainder = (theory.gaussian_reconstruction_error(x, sigmas) - expansion).abs()
    assert theory.loglog_slope(sigmas, remainder) == pytest.approx(4, abs=0.1)


def test_slope_and_minima_of_known_functions():
    assert theory.loglog_slope(GRID[1:], 7 * GRID[1:] ** 2.5) == pytest.approx(2.5)
    position, value = theory.local_minima(GRID, (GRID - 0.123) ** 2 + 3)
    assert (position.tolist(), value.tolist()) == (pytest.approx([0.123]), pytest.approx([3]))
