"""MagNet's detectors: the divergence of two answers, and several detectors of which one suffices."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from lit_pursamere.defense.detectors import ReconstructionNorm
from lit_pursamere.defense.magnet import AnyDetector, JensenShannon


def pictures(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.1 * torch.randn((count, 2, 2, 2), generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [10.0, 40.0])
def test_the_statistic_is_the_jensen_shannon_divergence(mixture, linear_classifier, temperature):
    detector, x = JensenShannon(mixture, linear_classifier, temperature, 0.01), pictures(5, 1)
    p, q = (torch.softmax(linear_classifier(each) / temperature, 1).detach() for each in (x, mixture.denoise(x, 0.1)))
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(p, q, strict=True)]
    assert detector.statistic(x).tolist() == pytest.approx(expected, rel=1e-6)
    assert not any(p.requires_grad for p in detector.parameters()) and not detector.classifier.training


def test_it_stays_between_zero_and_ln_2_and_is_differentiable(mixture, linear_classifier):
    x = pictures(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(JensenShannon(mixture, linear_classifier).statistic, (x,), atol=1e-6, rtol=1e-5)
    sure = JensenShannon(mixture, linear_classifier, temperature=1e-4, sigma2=1.0).statistic(
        0.5 + 30 * (pictures(200, 3) - 0.3)
    )
    assert sure.min() >= 0 and sure.max() == pytest.approx(math.log(2))


def both(mixture, linear_classifier, fpr=0.05):
    return [
        ReconstructionNorm(mixture, 2, 0.01, fpr=fpr),
        ReconstructionNorm(mixture, 1, 0.01, fpr=fpr),
        JensenShannon(mixture, linear_classifier, 10, 0.01, fpr=fpr),
    ]


def test_one_detector_suffices(mixture, linear_classifier):
    parts, x = both(mixture, linear_classifier), pictures(2000, 5)
    together = AnyDetector(parts)
    assert not together.calibrated
    with pytest.raises(ValueError, match="no threshold"):
        together.rejects(x)
    found = together.calibrate(pictures(4000, 4), batch_size=999)
    assert found == [part.threshold for part in parts] == together.threshold and together.calibrated
    each = torch.stack([part.rejects(x) for part in parts])
    assert torch.equal(together.rejects(x), each.any(0))
    assert each.double().mean(1).tolist() == pytest.approx([0.05] * 3, abs=1 / math.sqrt(2000))
    assert each[0].sum() < each.any(0).sum() <= 0.15 * 2000 + 45
    x[0] = math.nan
    assert together.rejects(x)[0]


def test_thresholds_can_be_put_back(mixture, linear_classifier):
    first, second = (AnyDetector(both(mixture, linear_classifier)) for _ in range(2))
    second.threshold = first.calibrate(pictures(100, 4))
    x = pictures(50, 6)
    assert torch.equal(first.statistic(x), second.statistic(x))
    assert str(first).startswith("AnyDetector(ReconstructionNorm(p=2, sigma2=0.01, threshold=")


def test_bad_arguments_are_named(mixture, linear_classifier):
    with pytest.raises(ValueError, match="got none"):
        AnyDetector([])
    with pytest.raises(ValueError, match=r"got 0\.0"):
        JensenShannon(mixture, linear_classifier, temperature=0.0)
    with pytest.raises(ValueError, match="thresholds above 0"):
        AnyDetector([ReconstructionNorm(mixture, threshold=0.0)]).calibrate(pictures(5, 1))
