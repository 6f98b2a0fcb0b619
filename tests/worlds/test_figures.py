"""Figures show the numbers of the theory."""

import subprocess
import sys

import pytest
import torch

from lit_pursamere.cli.main import main
from lit_pursamere.worlds import coup_toy, figures, theory


def lines(axes):
    return {line.get_label(): torch.as_tensor(line.get_xydata()) for line in axes.get_lines()}


@pytest.fixture
def invented_flips(monkeypatch):
    """Flip probabilities that need no simulation, a number of their own for every lambda and c."""
    monkeypatch.setattr(coup_toy, "flip_probability", lambda lam, c, runs: coup_toy.Flips(lam / 20 + c / 1000, 1.0))


@pytest.mark.parametrize("name", figures.FIGURES)
def test_named_figures_are_readme_wide_and_say_what_they_show(name, invented_flips):
    figure = figures.FIGURES[name]()
    assert figure.get_figwidth() * figure.dpi == 900
    for axes in figure.axes:
        assert axes.get_title(loc="left") and axes.get_xlabel() and lines(axes)
    assert figure.axes[0].get_ylabel()


SAVED = "proposition-1"


@pytest.mark.parametrize(
    "name", [n if n == SAVED else pytest.param(n, marks=pytest.mark.slow) for n in figures.FIGURES]
)
def test_named_figures_can_be_saved(name, tmp_path, invented_flips):
    main(["figure", name, str(tmp_path / "figure.png")])
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("sigma", [0.1, 0.02])
def test_reconstruction_error_figure_shows_the_numbers_of_the_theory(sigma):
    left, right = figures.reconstruction_error_figure(sigma).axes
    x, density = lines(left)["density"].T
    assert torch.equal(density, theory.truncated_mixture_density(x))
    x, error = lines(right)["reconstruction error"].T
    expected = theory.exact_reconstruction_error(theory.truncated_mixture_score(), x.reshape(-1, 1, 1, 1), sigma)
    torch.testing.assert_close(error, expected)
    assert torch.equal(lines(right)["minima"], torch.stack(theory.local_minima(x, error), dim=1))
    written = [text.get_text() for text in right.texts]
    assert any(f"{lines(right)['minima'][0, 0]:.3f}" in text for text in written)


def test_proposition_1_figure_shows_the_remainder_and_its_slope():
    (axes,) = figures.proposition1_figure().axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    shown = lines(axes)
    gaussian = next(label for label in shown if label.startswith("Gaussian"))
    assert float(gaussian.split()[-1]) == pytest.approx(4, abs=0.1)
    sigmas, remainder = shown[gaussian].T
    x = torch.linspace(0, 1, 51, dtype=torch.float64).reshape(-1, 1, 1, 1)
    expected = theory.proposition1_remainder(theory.smooth_mixture_score((0.5,)), x, sigmas)
    torch.testing.assert_close(remainder, expected, rtol=1e-6, atol=0)
    guide = next(points for label, points in shown.items() if label.startswith("guide"))
    assert theory.loglog_slope(*guide.T) == pytest.approx(3)


def test_the_bounds_that_are_drawn_lie_above_what_they_bound():
    for axes in figures.FIGURES["lemma-2"]().axes:
        shown = lines(axes)
        bound = shown.pop("bound")[:, 1]
        assert len(shown) == 3 and all((points[:, 1] <= bound).all() for points in shown.values())
    _, right = figures.FIGURES["theorem-2"]().axes
    assert (lines(right)["minimiser of $R$"][:, 1] < lines(right)["bound"][:, 1]).all()


def test_coup_toy_figure_shows_the_world_and_its_flips(invented_flips):
    left, right = figures.coup_toy_figure().axes
    for label in (0, 1):
        u, density = lines(left)[f"$p_{label}(u)$"].T
        assert torch.equal(density, coup_toy.class_density(u, label))
    u, probability = lines(left)["$p(1\\,|\\,u)$"].T
    assert torch.equal(probability, coup_toy.class_probability(u, 1.0))
    for lam in (0, 1, 2, 5, 10):
        c, share = lines(right)[f"$\\lambda = {lam}$"].T
        assert (c[0], c[-1]) == (0, 10)
        torch.testing.assert_close(share, lam / 20 + (c / 1000 if lam else 0 * c))


@pytest.mark.slow
def test_figures_leave_pyplot_and_display_alone():
    code = (
        "import sys; from lit_pursamere.worlds import figures; assert 'matplotlib' not in sys.modules; "
        "figures.proposition1_figure(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
