"""Detectors in a Gaussian world, where statistic, threshold and false positive rate are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from lit_pursamere.defense.detectors import Detector, ReconstructionNorm, ScoreNorm
from lit_pursamere.diffusion import AutoencoderScore, GaussianMixtureScore, ScoreModel
from lit_pursamere.networks import DenoisingAutoencoder

MEAN, TAU, SIGMA2, PIXELS = 0.5, 0.1, 0.03, 12
SLOPE = 1 / (TAU**2 + SIGMA2)  # of the score

DETECTORS = {
    "score": lambda model, **given: ScoreNorm(model, SIGMA2, **given),
    "mean-absolute": lambda model, **given: ReconstructionNorm(model, 1, SIGMA2, **given),
    "mean-square": lambda model, **given: ReconstructionNorm(model, 2, SIGMA2, **given),
}


@pytest.fixture
def gaussian() -> ScoreModel:
    return GaussianMixtureScore(torch.full((1, 3, 2, 2), MEAN, dtype=torch.float64), std=TAU)


def samples(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (MEAN + TAU * torch.randn((count, 3, 2, 2), generator=generator, dtype=torch.float64)).to(dtype)


@pytest.fixture(params=DETECTORS)
def build(request):
    return DETECTORS[request.param]


def test_the_score_norm_is_the_closed_form(gaussian):
    x = samples(5, 1)
    expected = SLOPE * (x - MEAN).flatten(1).norm(dim=1)
    assert torch.allclose(ScoreNorm(gaussian, SIGMA2).statistic(x), expected, rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_the_reconstruction_norm_is_the_closed_form(gaussian, p):
    x = samples(5, 1)
    expected = ((SIGMA2 * SLOPE * (x - MEAN)).abs() ** p).flatten(1).mean(1)
    assert torch.allclose(ReconstructionNorm(gaussian, p, SIGMA2).statistic(x), expected, rtol=1e-12)


def test_of_an_autoencoder_both_see_its_residual():
    torch.manual_seed(0)
    r = AutoencoderScore(DenoisingAutoencoder(3, 4), SIGMA2).double()
    x = torch.rand(3, 3, 4, 4, dtype=torch.float64)
    residual = (r.network(x) - x).flatten(1)
    assert torch.allclose(ScoreNorm(r, SIGMA2).statistic(x), residual.norm(dim=1) / SIGMA2, rtol=1e-12)
    assert torch.allclose(ReconstructionNorm(r, 2, 0.7).statistic(x), residual.square().mean(1), rtol=1e-12)
    with pytest.raises(ValueError, match=r"sigma2 0\.03"):  # eq. 13 divides by the variance that r was trained at
        ScoreNorm(r, 0.1).statistic(x)


@pytest.mark.parametrize("fpr", [0.01, 0.05, 0.1])
def test_the_threshold_keeps_its_rate_on_fresh_images(gaussian, build, fpr):
    count = 4000
    detector = build(gaussian, fpr=fpr)
    assert not detector.calibrated
    threshold = detector.calibrate(samples(5 * count, 2), batch_size=999)
    assert detector.calibrated and detector.threshold == threshold
    rate = detector.rejects(samples(count, 3)).double().mean().item()
    assert abs(rate - fpr) < 1 / math.sqrt(count)
    if isinstance(detector, ScoreNorm):
        exact = SLOPE * TAU * math.sqrt(chi2.ppf(1 - fpr, PIXELS))
        assert threshold == pytest.approx(exact, rel=0.03)


def test_the_threshold_is_the_quantile_of_the_images_given(gaussian, build):
    images = samples(200, 4, torch.float32)
    detector = build(gaussian.float(), fpr=0.1)
    threshold = detector.calibrate(images)
    values = detector.statistic(images)
    assert threshold in values.tolist() and (values > threshold).sum() in (19, 20)
    assert torch.equal(detector.rejects(images), values > threshold)  # the image at the threshold is kept


def test_images_moved_off_the_data_stand_out(gaussian, build):
    detector, x = build(gaussian), samples(100, 5)
    detector.calibrate(samples(1000, 6))
    away = x + 0.3 * (x - MEAN).sign()
    assert (detector.statistic(away) > detector.statistic(x)).all()
    assert detector.rejects(away).all() and detector.rejects(x).double().mean() < 0.15


def test_other_images_do_not_matter(gaussian, build):
    detector, x = build(gaussian), samples(6, 7)
    alone = torch.cat([detector.statistic(x[i : i + 1]) for i in range(6)])
    assert alone.shape == (6,) and torch.allclose(detector.statistic(x), alone, rtol=1e-12)


def test_the_statistic_is_differentiable(gaussian, build):
    x = samples(2, 8).requires_grad_()
    assert torch.autograd.gradcheck(build(gaussian).statistic, (x,), eps=1e-6, atol=1e-6, rtol=1e-5)
    at_mean = torch.full((1, 3, 2, 2), MEAN, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(build(gaussian).statistic(at_mean).sum(), at_mean)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_what_is_not_a_number_is_rejected(gaussian, build):
    detector, x = build(gaussian, threshold=1e9), samples(3, 9)
    x[1, 0, 0, 0] = math.nan
    assert detector.rejects(x).tolist() == [False, True, False]


def test_a_given_threshold_is_used_as_it_is(gaussian, build):
    x = samples(50, 10)
    middle = build(gaussian).statistic(x).median().item()
    detector = build(gaussian, threshold=middle)
    assert detector.calibrated and detector.rejects(x).sum() == 25
    with pytest.raises(ValueError, match="leave it out"):
        detector.calibrate(samples(1000, 2))


def test_it_is_frozen_and_tells_what_decides():
    detector = ScoreNorm(AutoencoderScore(DenoisingAutoencoder(3, 4)), fpr=0.1)
    assert not detector.train().training and not any(m.training for m in detector.modules())
    assert not any(p.requires_grad for p in detector.parameters())
    assert str(detector) == "ScoreNorm(sigma2=0.15, threshold=None, fpr=0.1)"
    assert str(ScoreNorm(detector.score_model, threshold=7.25)) == "ScoreNorm(sigma2=0.15, threshold=7.25, fpr=None)"
    told = str(ReconstructionNorm(detector.score_model, 1))
    assert told == "ReconstructionNorm(p=1, sigma2=0.01, threshold=None, fpr=0.05)"


def test_without_a_threshold_nothing_is_judged(gaussian, build):
    with pytest.raises(ValueError, match=r"fpr=0\.05\) has no threshold: call calibrate"):
        build(gaussian).rejects(samples(2, 0))


@pytest.mark.parametrize(("fpr", "least"), [(0.05, 20), (0.001, 1000), (0.3, 4)])
def test_too_few_images_for_the_rate_are_refused(gaussian, build, fpr, least):
    detector = build(gaussian, fpr=fpr)
    with pytest.raises(ValueError, match=rf"fpr of {fpr} with {least - 1} images: give it at least {least},"):
        detector.calibrate(samples(least - 1, 0))
    assert not detector.calibrated
    detector.calibrate(samples(least, 0))


class Broken(Detector):
    def statistic(self, x: Tensor) -> Tensor:
        return x.flatten(1).sum(1).log()


def test_a_statistic_that_breaks_is_no_threshold():
    with pytest.raises(ValueError, match="Broken is not finite"):
        Broken().calibrate(torch.zeros(30, 1, 2, 2))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"fpr": 0.0}, "fpr=0.0"),
        ({"fpr": 1.0}, "fpr=1.0"),
        ({"fpr": None}, "fpr=None"),
        ({"fpr": math.nan}, "fpr=nan"),
        ({"threshold": math.inf}, "got inf"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_settings_are_named(gaussian, build, arguments, told):
    with pytest.raises(ValueError, match=told):
        build(gaussian, **arguments)


@pytest.mark.parametrize("sigma2", [0.0, math.nan])
def test_bad_variances_and_powers_are_named(gaussian, sigma2):
    for detector in (ScoreNorm, ReconstructionNorm):
        with pytest.raises(ValueError, match=f"{detector.__name__}.*{sigma2}"):
            detector(gaussian, sigma2=sigma2)
    with pytest.raises(ValueError, match="got 3"):
        ReconstructionNorm(gaussian, 3)
