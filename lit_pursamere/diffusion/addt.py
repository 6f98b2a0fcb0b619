"""ADDT: noise that is Gaussian pixel by pixel, and arranged to mislead a classifier.

Reference: Liu et al. (2025), "Towards Understanding the Robustness of Diffusion-Based Purification: A Stochastic
Perspective", section 5, algorithm 1; eq. 8 with gamma^2 is the squared error of the noise.

    gamma = 1 / sigma_u,  lambda = clip(lambda_unit gamma, lambda_min, lambda_max)          (sigma_u = 2 sigma)
    a = 0;  nu ~ N(0, I);  repeat 5 times (CGPO):
        xi = sqrt(1 - lambda^2) eps + lambda nu,  eps ~ N(0, I)
        a += d CE(classifier(denoise(x + sigma xi)), y) / d nu
        nu = RBGM(a, fresh Gaussian)                                     the Gaussian's values in the order of a
    train on xi = sqrt(1 - lambda^2) eps + lambda nu                      with the levels and the weights of `base`
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_pursamere.diffusion.guidance import Guided, evaluating, sign_ascent
from lit_pursamere.diffusion.objectives import DDPMObjective, Draw, Objective, normal_like
from lit_pursamere.diffusion.score_model import ScoreModel, per_image
from lit_pursamere.threat import Pixels, ThreatModel

__all__ = ["ADDTLinfObjective", "ADDTObjective", "rank_mapped"]


def rank_mapped(delta: Tensor, gaussian: Tensor) -> Tensor:
    """Rank-based Gaussian mapping (RBGM): the values of one image in the order of another, channel by channel.

    Args:
        delta: What gives the order, (B, C, H, W).
        gaussian: What gives the values, (B, C, H, W).

    Returns:
        (B, C, H, W): the r-th smallest value stands where delta is r-th smallest.
    """
    order = delta.flatten(2).argsort(dim=2, stable=True)
    values = gaussian.flatten(2).sort(2).values
    return torch.empty_like(values).scatter(2, order, values).reshape(delta.shape)


@dataclass(frozen=True)
class OnBase(Guided):
    """An objective that changes the noise of another one, and nothing else.

    Args:
        base: Levels, weights and sampler: `DDPMObjective`, `VPObjective` (ADDT: t_min 1e-3) or `EDMObjective`.
        refinements: Gradients that one draw takes.
    """

    base: Objective = field(default_factory=DDPMObjective)
    refinements: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.refinements < 1 or self.base.refinements:
            raise ValueError(
                f"{type(self).__name__} needs refinements >= 1 and a base of Gaussian noise; "
                f"got {self.refinements} and {type(self.base).__name__}"
            )

    @property
    def levels(self) -> tuple[float, ...]:
        return self.base.levels

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return self.base.draw_levels(count, generator)

    def weight(self, sigma: Tensor, dimension: int) -> Tensor:
        return self.base.weight(sigma, dimension)

    def sample(self, score_model: ScoreModel, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return self.base.sample(score_model, shape, generator)


@dataclass(frozen=True)
class ADDTObjective(OnBase):
    """Adversarial denoising diffusion training, to fine-tune a trained score model.

    Args:
        classifier: Frozen; None: perturbations guided by the error of the noise itself, an ablation of the paper.
        base: Levels, weights and sampler.
        refinements: Rounds of CGPO.
        lambda_unit: Share lambda of the arranged noise per gamma (the paper also has 0.02 and 0.04).
        lambda_min: Smallest share, in [0, 1].
        lambda_max: Largest share, in [0, 1].
        dropout: Whether the score model's dropout acts during CGPO, as in the authors' code.
        leak_ce_grad: Whether the gradients of the refinements' errors are added to that of the loss. The authors' code
            for EDM never clears them; neither the paper nor their code for DDPM and DDPM++ does that.

    Raises:
        ValueError: If a number is out of range.
    """

    lambda_unit: float = 0.03
    lambda_min: float = 0.0
    lambda_max: float = 0.3
    dropout: bool = True
    leak_ce_grad: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.lambda_unit < math.inf and 0 <= self.lambda_min <= self.lambda_max <= 1):
            raise ValueError(
                "ADDTObjective needs lambda_unit > 0 and 0 <= lambda_min <= lambda_max <= 1; "
                f"got {self.lambda_unit}, {self.lambda_min}, {self.lambda_max}"
            )

    @property
    def training(self) -> str:
        return "mse-guided" if self.classifier is None else "addt"

    def share(self, sigma: Tensor) -> Tensor:
        """Share lambda of the arranged noise at levels (B,)."""
        return (self.lambda_unit / (2 * sigma)).clamp(self.lambda_min, self.lambda_max)

    def mixed(self, gaussian: Tensor, arranged: Tensor, sigma: Tensor) -> Tensor:
        """Both kinds of noise (B, C, H, W) in their shares: of variance 1 again."""
        share = per_image(self.share(sigma), gaussian)
        return (1 - share**2).sqrt() * gaussian + share * arranged

    def draw(
        self, x: Tensor, labels: Tensor | None, score_model: ScoreModel, generator: torch.Generator | None = None
    ) -> Draw:
        sigma = self.draw_levels(len(x), generator).to(x, non_blocking=True)
        weights = [p for p in score_model.parameters() if p.requires_grad] if self.leak_ce_grad else []
        slope, extra = torch.zeros_like(x), torch.zeros((), device=x.device)
        arranged = normal_like(x, generator)
        with nullcontext() if self.dropout else evaluating(score_model):
            for _ in range(self.refinements):
                arranged.requires_grad_()
                noise = self.mixed(normal_like(x, generator), arranged, sigma)
                error = self.error(score_model, x, sigma, noise, labels)
                found, *leaked = torch.autograd.grad(error.sum(), [arranged, *weights], allow_unused=True)
                slope = slope + found
                extra = extra + with_gradients(weights, leaked) / len(x)
                arranged = rank_mapped(slope, normal_like(x, generator))
        noise = self.mixed(normal_like(x, generator), arranged, sigma)
        return Draw(sigma, noise.unsqueeze(0), extra)


def with_gradients(weights: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> Tensor | float:
    """A zero with these gradients."""
    pulls = [(w * g).sum() for w, g in zip(weights, gradients, strict=True) if g is not None]
    total = torch.stack(pulls).sum() if pulls else None
    return 0.0 if total is None else total - total.detach()


@dataclass(frozen=True)
class ADDTLinfObjective(OnBase):
    """ADDT with a bounded perturbation of the image in place of arranged noise, an ablation of the paper.

        y = x + sigma (eps + r delta_u),  delta_u = 2 delta,  r = clip(gamma, 0, ratio_max);   found: eps + r delta_u

    Args:
        classifier: Frozen; None: the perturbation raises the error of the noise itself.
        base: Levels, weights and sampler.
        refinements: Sign steps of the perturbation delta, from 0, each with fresh Gaussian noise.
        eps: Bound of delta in pixel units.
        step_size: Length of a step in pixel units.
        ratio_max: Largest factor r; at sigma_u above 1 / ratio_max, x + delta is what noise is added to.

    Raises:
        ValueError: If a number is out of range.
    """

    eps: Pixels = Pixels("8/255")  # noqa: RUF009 (an immutable value)
    step_size: Pixels = Pixels("4/255")  # noqa: RUF009
    ratio_max: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.threat.eps > 0 and 0 < self.step_size <= 1 and 0 < self.ratio_max < math.inf):
            raise ValueError(
                "ADDTLinfObjective needs eps and ratio_max above 0 and step_size in (0, 1]; "
                f"got {self.eps}, {self.ratio_max}, {self.step_size}"
            )

    @property
    def training(self) -> str:
        return "addt-linf"

    @property
    def threat(self) -> ThreatModel:
        """Where x + delta may lie."""
        return ThreatModel("linf", self.eps)

    def shifted(self, gaussian: Tensor, delta: Tensor, sigma: Tensor) -> Tensor:
        """Noise (B, C, H, W) that also moves images by delta (B, C, H, W), in pixel units, at levels (B,)."""
        return gaussian + per_image((1 / (2 * sigma)).clamp(max=self.ratio_max), delta) * 2 * delta

    def draw(
        self, x: Tensor, labels: Tensor | None, score_model: ScoreModel, generator: torch.Generator | None = None
    ) -> Draw:
        sigma = self.draw_levels(len(x), generator).to(x, non_blocking=True)

        def error(delta: Tensor) -> Tensor:
            return self.error(score_model, x, sigma, self.shifted(normal_like(x, generator), delta, sigma), labels)

        delta = sign_ascent(self.threat, x, x, self.step_size, self.refinements, error)
        return Draw(sigma, self.shifted(normal_like(x, generator), delta, sigma).unsqueeze(0))
