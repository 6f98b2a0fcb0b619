"""What score models are trained on: a distribution of noise levels and of noise, and a weight for each level.

    loss = E_sigma [ weight(sigma) R(x; sigma) ],    R = expected reconstruction error, summed over d pixels

The trainings of some papers are the same with noise that is not Gaussian, or with a term more: `addt`, `adbm`, `sdae`.

| objective        | sigma_u = 2 sigma, for centred pixels in [-1, 1]  | weight                     | samples     |
| NCSNObjective    | uniform over the levels                           | 1/2                        | Langevin    |
| DDPMObjective    | of index i uniform in 0..999                      | 1/d                        | DDIM        |
| VPObjective      | of time t uniform in [1e-5, 1]                    | 1/d                        | DDIM        |
| EDMObjective     | log-normal, ln sigma_u ~ N(-1.2, 1.2^2)           | 1 + (sigma_u / data_std)^2 | Heun        |
| LogUniformObjective | log-uniform between two levels                 | the same                   | Heun        |
| DAEObjective     | always 2 sqrt(sigma2)                             | sigma2                     | Langevin    |

References: Song & Ermon (2020); Ho et al. (2020), eq. 14; Song et al. (2021), VP-SDE; Karras et al. (2022), table 1,
whose weight (sigma_u^2 + data_std^2) / (sigma_u data_std)^2 stands before sigma_u^2 R; Srinivasan et al. (2021), eq. 4.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from lit_pursamere.diffusion.sampling import annealed_langevin, ddim, heun
from lit_pursamere.diffusion.schedules import VP, NoiseLevels, decreasing_levels, karras_levels
from lit_pursamere.diffusion.score_model import ScoreModel

__all__ = [
    "DAEObjective",
    "DDPMObjective",
    "Draw",
    "EDMObjective",
    "LogUniformObjective",
    "NCSNObjective",
    "Objective",
    "VPObjective",
    "normal_like",
]


class Draw(NamedTuple):
    """The noise of one batch: the score model sees x + sigma noise, and is to find `noise` in it.

    `sigma` (B,) are the levels of the images in pixel units, `noise` is (1, B, C, H, W), and `extra` a number that is
    added to the loss of the batch.
    """

    sigma: Tensor
    noise: Tensor
    extra: Tensor | float = 0.0


def normal_like(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Standard normal images like x (B, C, H, W): drawn where x is, or on the device of the generator and moved."""
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)


class Objective(ABC):
    """Training noise of a score model; an immutable value. sigma is in [0, 1] pixel units everywhere."""

    refinements: int = 0  # gradients of the score model and of a frozen classifier that one draw of noise takes

    def __deepcopy__(self, memo: object) -> Objective:  # a moving average of the task needs no second classifier
        return self

    @property
    @abstractmethod
    def levels(self) -> tuple[float, ...]:
        """Decreasing levels that cover the training noise; validation reports the error over bands of them."""

    @abstractmethod
    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw noise levels (count,) on the CPU."""

    def draw(
        self, x: Tensor, labels: Tensor | None, score_model: ScoreModel, generator: torch.Generator | None = None
    ) -> Draw:
        """Draw the noise of a batch: Gaussian, unless an objective makes it of the images and the score model.

        Args:
            x: Images (B, C, H, W) in [0, 1].
            labels: Their classes (B,); None where nobody asks a classifier.
            score_model: As it is at this step; its weights are not changed, nor their gradients.
            generator: Of the CPU. None: torch's global ones.
        """
        sigma = self.draw_levels(len(x), generator).to(x, non_blocking=True)
        return Draw(sigma, normal_like(x, generator).unsqueeze(0))

    def loss(self, residual: Tensor, sigma: Tensor, x: Tensor, labels: Tensor | None) -> Tensor:
        """Loss of every image, (B,).

        Args:
            residual: What the score model did not find of the noise, (B, C, H, W): noise - xi_hat, of one draw; so
                x + sigma residual is the denoised image.
            sigma: Levels (B,).
            x: Clean images (B, C, H, W) in [0, 1].
            labels: Their classes (B,), or None.
        """
        return self.weight(sigma, x[0].numel()) * residual.square().flatten(1).sum(1)

    def facts(self) -> dict[str, object]:
        """What the card of a training says of it."""
        return {"objective": repr(self)}

    @abstractmethod
    def weight(self, sigma: Tensor, dimension: int) -> Tensor:
        """Weight of R(x; sigma) in the loss, (B,), for images of `dimension` pixel values."""

    @abstractmethod
    def sample(self, score_model: ScoreModel, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Draw samples (B, C, H, W) with this family's own sampler, on the generator's device."""


def normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, device=generator.device)


@dataclass(frozen=True)
class NCSNObjective(Objective):
    """Annealed denoising score matching over discrete levels (Song & Ermon, 2020).

    Args:
        sigmas: Noise levels, decreasing: a `NoiseLevels` or an explicit list.
        step_size: Langevin step of the samples at the smallest level, squared pixel units (CIFAR-10: 6.2e-6).
        steps_per_level: Langevin steps at every level.
    """

    sigmas: NoiseLevels | list[float] = field(default_factory=NoiseLevels)
    step_size: float = 6.2e-6
    steps_per_level: int = 5

    def __post_init__(self) -> None:
        decreasing_levels("NCSNObjective", self.sigmas)
        if self.step_size <= 0 or self.steps_per_level < 1:
            raise ValueError(
                "NCSNObjective needs step_size > 0 and steps_per_level >= 1; "
                f"got {self.step_size} and {self.steps_per_level}"
            )

    @cached_property  # every training step draws from them
    def levels(self) -> tuple[float, ...]:
        return decreasing_levels("NCSNObjective", self.sigmas)

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        levels = torch.tensor(self.levels)
        return levels[torch.randint(len(levels), (count,), generator=generator)]

    def weight(self, sigma: Tensor, dimension: int) -> Tensor:
        return torch.full_like(sigma, 0.5)

    def sample(self, score_model: ScoreModel, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        start = torch.rand(*shape, generator=generator, device=generator.device)
        return annealed_langevin(score_model, start, self.levels, self.step_size, self.steps_per_level, generator)


@dataclass(frozen=True)
class VPObjective(Objective):
    """Noise prediction at continuous times of the variance-preserving SDE (Song et al., 2021).

    Args:
        steps: DDIM steps of the samples.
        t_min: Smallest time in (0, 1); smaller ones make the score explode.
    """

    steps: int = 100
    t_min: float = 1e-5

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.t_min < 1:
            raise ValueError(f"VPObjective needs steps >= 1 and t_min in (0, 1); got {self.steps} and {self.t_min}")

    @property
    def levels(self) -> tuple[float, ...]:
        times = torch.linspace(1, 1e-3, 1000, dtype=torch.float64)
        return tuple((VP.sigma_of_time(times) / 2).tolist())

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        times = self.t_min + (1 - self.t_min) * torch.rand(count, generator=generator, dtype=torch.float64)
        return (VP.sigma_of_time(times) / 2).float()

    def weight(self, sigma: Tensor, dimension: int) -> Tensor:
        return torch.full_like(sigma, 1 / dimension)

    def sample(self, score_model: ScoreModel, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        levels = torch.tensor(self.levels, dtype=torch.float64)
        sigmas = levels[torch.linspace(0, len(levels) - 1, self.steps).round().long()].tolist()
        return ddim(score_model, sigmas[0] * normal(shape, generator) + 0.5, [*sigmas, 0.0])


@dataclass(frozen=True)
class DDPMObjective(VPObjective):
    """Noise prediction at the 1000 steps of DDPM's linear schedule (Ho et al., 2020).

    Args:
        steps: DDIM steps of the samples.
    """

    t_min: float = field(default=1e-5, init=False, repr=False)

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple((VP.sigma_table.flip(0) / 2).tolist())

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return (VP.sigma_table / 2).float()[torch.randint(len(VP.sigma_table), (count,), generator=generator)]


@dataclass(frozen=True)
class EDMObjective(Objective):
    """Log-normal noise and the weighting that evens out the gradients of all levels (Karras et al., 2022).

    Args:
        mean: Mean of ln sigma_u, where sigma_u = 2 sigma belongs to centred pixels.
        std: Standard deviation of ln sigma_u.
        data_std: Standard deviation of centred pixels.
        steps: Heun steps of the samples.
    """

    mean: float = -1.2
    std: float = 1.2
    data_std: float = 0.5
    steps: int = 18

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and self.std > 0 and self.data_std > 0 and self.steps >= 2):
            raise ValueError(
                "EDMObjective needs a finite mean, std > 0, data_std > 0 and steps >= 2; "
                f"got {self.mean}, {self.std}, {self.data_std}, {self.steps}"
            )

    @property
    def levels(self) -> tuple[float, ...]:
        return tuple(sigma / 2 for sigma in karras_levels(200))

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return (self.mean + self.std * torch.randn(count, generator=generator)).exp() / 2

    def weight(self, sigma: Tensor, dimension: int) -> Tensor:
        return 1 + (2 * sigma / self.data_std) ** 2

    def sample(self, score_model: ScoreModel, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        sigmas = [sigma / 2 for sigma in karras_levels(self.steps)]
        return heun(score_model, sigmas[0] * normal(shape, generator) + 0.5, [*sigmas, 0.0])


@dataclass(frozen=True)
class LogUniformObjective(Objective):
    """Every octave of noise alike between two levels, for score models that purify and need not make images of noise.

    Purification asks for the levels around the size of an attack, which the log-normal of `EDMObjective` draws seldom.

    Args:
        sigma_max: Largest level in pixel units; purifiers that start above it need another model.
        sigma_min: Smallest level, above 0.
        data_std: Standard deviation of centred pixels, for EDM's weight of a level.
        steps: Heun steps of the samples.
    """

    sigma_max: float = 1.0
    sigma_min: float = 0.01
    data_std: float = 0.5
    steps: int = 18

    def __post_init__(self) -> None:
        if not (0 < self.sigma_min < self.sigma_max < math.inf and self.data_std > 0 and self.steps >= 2):
            raise ValueError(
                "LogUniformObjective needs 0 < sigma_min < sigma_max, data_std > 0 and steps >= 2; "
                f"got {self.sigma_min}, {self.sigma_max}, {self.data_std}, {self.steps}"
            )

    @property
    def levels(self) -> tuple[float, ...]:
        return NoiseLevels(self.sigma_max, self.sigma_min, 200).values

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** torch.rand(count, generator=generator)

    def weight(self, sigma: Tensor, dimension: int) -> Tensor:
        return 1 + (2 * sigma / self.data_std) ** 2

    def sample(self, score_model: ScoreModel, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        sigmas = NoiseLevels(self.sigma_max, self.sigma_min, self.steps).values
        return heun(score_model, sigmas[0] * normal(shape, generator) + 0.5, [*sigmas, 0.0])


@dataclass(frozen=True)
class DAEObjective(Objective):
    """Denoising at a single level, as denoising autoencoders r are trained: E ||r(x + sigma xi) - x||^2.

    The squared error is summed over the pixels; noisy images are not clipped.

    Args:
        sigma2: Variance of the noise in squared pixel units (MALADE: 0.15 for MNIST; not a deviation).
        alpha: Langevin step of the samples in squared pixel units. They are denoised ends of walks over noisy images,
            so they vary less than the data; one level cannot do better.
        steps: Langevin steps of the samples.
    """

    sigma2: float = 0.15
    alpha: float = 0.015
    steps: int = 200

    def __post_init__(self) -> None:
        if not (0 < self.sigma2 < math.inf and 0 < self.alpha < math.inf) or self.steps < 1:
            raise ValueError(
                "DAEObjective needs sigma2 and alpha above 0 and steps >= 1; "
                f"got {self.sigma2}, {self.alpha} and {self.steps}"
            )

    @property
    def levels(self) -> tuple[float, ...]:
        return (self.sigma2**0.5,)

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.full((count,), self.sigma2**0.5)

    def weight(self, sigma: Tensor, dimension: int) -> Tensor:
        return sigma**2

    def sample(self, score_model: ScoreModel, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        start = torch.rand(*shape, generator=generator, device=generator.device)
        return annealed_langevin(score_model, start, self.levels, self.alpha, self.steps, generator)
