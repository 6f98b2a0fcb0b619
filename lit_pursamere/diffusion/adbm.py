"""ADBM's training: a bridge from diffused attacked images to clean ones.

Reference: Li et al. (2025), "ADBM: Adversarial Diffusion Bridge Model for Reliable Adversarial Purification", ICLR.

    T ~ U(0.1, 0.2) a batch,  t ~ U(1e-5, T) an image,  z ~ N(0, I)
    xi = z + delta sigma_t / sigma_T^2,  y = x + sigma_t xi       at t = T:  x + delta + sigma_T z, the diffused attack
    delta: 3 sign steps up CE(classifier(denoise(y)), y), all of the above and the score model held as they are
    train on xi                                                       found exactly, y - sigma_t xi = x at every t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lit_pursamere.diffusion.guidance import Guided, evaluating, sign_ascent
from lit_pursamere.diffusion.objectives import Draw, Objective, VPObjective, normal_like
from lit_pursamere.diffusion.schedules import VP
from lit_pursamere.diffusion.score_model import ScoreModel, per_image
from lit_pursamere.threat import Pixels, ThreatModel

__all__ = ["ADBMObjective", "bridge_noise"]


def bridge_noise(gaussian: Tensor, delta: Tensor, sigma: Tensor, end: Tensor) -> Tensor:
    """Noise whose part `delta` fades from the whole at level `end` to nothing at 0.

    Args:
        gaussian: z, (B, C, H, W).
        delta: Perturbations of the images (B, C, H, W) in pixel units.
        sigma: Levels (B,) in pixel units.
        end: Level at which sigma times this noise is delta + sigma z; a scalar.
    """
    return gaussian + per_image(sigma / end**2, delta) * delta


@dataclass(frozen=True)
class ADBMObjective(Guided):
    """Adversarial diffusion bridge, to fine-tune a score model trained on the VP-SDE.

    Args:
        classifier: Frozen; None: delta raises the error of the noise itself, the authors' variant without one.
        base: Weights and sampler; the noise levels are those below.
        refinements: Sign steps of delta, from a random start.
        eps: Bound of delta in pixel units (the authors train with 8/255 always).
        step_size: Length of a step in pixel units: all of eps.
        t_min: Smallest time.
        t_first: Smallest time T at which the bridge ends.
        t_last: Largest time T.

    Raises:
        ValueError: If a number is out of range.
    """

    base: Objective = field(default_factory=VPObjective)
    refinements: int = 3
    eps: Pixels = Pixels("8/255")  # noqa: RUF009 (an immutable value)
    step_size: Pixels = Pixels("8/255")  # noqa: RUF009
    t_min: float = 1e-5
    t_first: float = 0.1
    t_last: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.t_min < self.t_first <= self.t_last <= 1:
            raise ValueError(
                "ADBMObjective needs 0 < t_min < t_first <= t_last <= 1; "
                f"got {self.t_min}, {self.t_first}, {self.t_last}"
            )
        if self.refinements < 1 or not (self.threat.eps > 0 and 0 < self.step_size <= 1):
            raise ValueError(
                "ADBMObjective needs refinements >= 1, eps > 0 and step_size in (0, 1]; "
                f"got {self.refinements}, {self.eps}, {self.step_size}"
            )

    @property
    def training(self) -> str:
        return "bridge"

    @property
    def threat(self) -> ThreatModel:
        """Where x + delta may lie."""
        return ThreatModel("linf", self.eps)

    @property
    def levels(self) -> tuple[float, ...]:
        times = torch.linspace(self.t_last, self.t_first / 100, 200, dtype=torch.float64)
        return tuple((VP.sigma_of_time(times) / 2).tolist())

    def draw_times(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Times (count,), and the time of all of them at which the bridge ends, a scalar; float64, on the CPU."""
        drawn = torch.rand(count + 1, generator=generator, dtype=torch.float64)
        end = self.t_first + (self.t_last - self.t_first) * drawn[0]
        return self.t_min + (end - self.t_min) * drawn[1:], end

    def draw_levels(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        return (VP.sigma_of_time(self.draw_times(count, generator)[0]) / 2).float()

    def weight(self, sigma: Tensor, dimension: int) -> Tensor:
        return self.base.weight(sigma, dimension)

    def sample(self, score_model: ScoreModel, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return self.base.sample(score_model, shape, generator)

    def draw(
        self, x: Tensor, labels: Tensor | None, score_model: ScoreModel, generator: torch.Generator | None = None
    ) -> Draw:
        sigma, end = ((VP.sigma_of_time(time) / 2).to(x) for time in self.draw_times(len(x), generator))
        z = normal_like(x, generator)
        device = x.device if generator is None else generator.device
        offset = torch.rand(x.shape, generator=generator, dtype=x.dtype, device=device).to(x.device)
        start = (x + self.eps * (2 * offset - 1)).clamp(0, 1)

        def error(delta: Tensor) -> Tensor:
            return self.error(score_model, x, sigma, bridge_noise(z, delta, sigma, end), labels)

        with evaluating(score_model):
            delta = sign_ascent(self.threat, x, start, self.step_size, self.refinements, error)
        return Draw(sigma, bridge_noise(z, delta, sigma, end).unsqueeze(0))
