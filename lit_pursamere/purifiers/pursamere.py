"""PurSAMERE: search the l2 neighbourhood of an image for a flat minimum of the expected reconstruction error.

Reference: Hoang, Krumscheid, Rauhut, Tempone (2026), Algorithm 1, eqs. (12), (15), (16).

    for k = 1..L:  xi = m fixed draws;  g = grad R(x; sigma_k)
        x_max = clamp(x + rho_sam * g / |g|);  g = grad R(x_max; sigma_k)     (SAM; the same draws)
        x = project(adam_step(x, g, lr_k), box and ball(x_adv, rho_pur))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from lit_pursamere.diffusion import (
    NoiseLevels,
    NoiseSource,
    ScoreModel,
    decreasing_levels,
    expected_reconstruction_error,
)
from lit_pursamere.purifiers.base import Purifier
from lit_pursamere.threat import Pixels, ThreatModel, image_norm, over_images, project_l2_ball_and_box

__all__ = ["PurSAMERE", "Trajectory"]

BETA1, BETA2, ADAM_EPS = 0.9, 0.999, 1e-8


@dataclass(frozen=True)
class Trajectory:
    """What happened at the L levels; every tensor but `sigmas` and `lrs` is (L, B).

    `error` is R(x_{k-1}; sigma_k), or R(x_max; sigma_k) where the ascent is reused; `ascent_norm` is the length of the
    SAM step after clamping (0 without SAM), and `distance` is ||x_k - x_adv||_2.
    """

    sigmas: tuple[float, ...]
    lrs: tuple[float, ...]
    error: Tensor
    ascent_norm: Tensor
    distance: Tensor


class PurSAMERE(Purifier):
    """Sharpness-aware minimisation of the expected reconstruction error within an l2 ball and the pixel box.

    Costs 2 m L network evaluations with their input gradients per image: 1856 at the defaults. Without SAM it is m L,
    and m (L + 1) with an ascent that is reused.

    Args:
        rho_pur: Radius of the search ball in l2 pixel units (paper: 2, 2.5 or 3). 0 returns the input.
        rho_sam: Radius of the SAM ascent in l2 pixel units (paper: 1.5). 0 turns SAM off.
        draws: Number m of noise draws that estimate R at every level.
        sigmas: Noise levels, decreasing, one step each: a `NoiseLevels` or an explicit list.
        lr_max: Adam's learning rate at the first level.
        lr_min: Adam's learning rate at the last level.
        seed: Of the stream `level`, `draws` at every level.
        projection: `ball_then_clamp`, or `exact` for the Euclidean projection on ball and box together.
        lr_schedule: `linear` falls from lr_max to lr_min as the paper's text says. `as_printed` is line 11 of
            Algorithm 1 taken literally (lr_max at the first level, then rising from lr_min); an ablation.
        ascent: Where SAM ascends along: `fresh`, the gradient at the image, as in the paper; or `reused`, the gradient
            that the level before descended by, which halves the cost (the first level's is fresh).
        antithetic: Whether every second draw is the negative of another, so that odd terms of R's error cancel; the
            paper draws independently.

    Raises:
        ValueError: If a radius is negative, there are no draws or levels, levels or rates are not ordered, or an odd
            number of draws should be antithetic.
    """

    streams, knowledge = ("level",), "fixed"

    def __init__(
        self,
        score_model: ScoreModel,
        rho_pur: float = 3.0,
        rho_sam: float = 1.5,
        draws: int = 4,
        sigmas: NoiseLevels | list[float] = NoiseLevels(),  # noqa: B008 (an immutable value)
        lr_max: float = 0.1,
        lr_min: float = 0.001,
        seed: int = 0,
        projection: Literal["ball_then_clamp", "exact"] = "ball_then_clamp",
        lr_schedule: Literal["linear", "as_printed"] = "linear",
        ascent: Literal["fresh", "reused"] = "fresh",
        antithetic: bool = False,
    ) -> None:
        super().__init__(score_model, seed)
        self.rho_pur, self.rho_sam, self.draws = rho_pur, rho_sam, draws
        self.sigmas = decreasing_levels("PurSAMERE", sigmas)
        self.lr_max, self.lr_min, self.lr_schedule = lr_max, lr_min, lr_schedule
        self.projection, self.ascent, self.antithetic = projection, ascent, antithetic
        self._check()
        self.lrs = learning_rates(len(self.sigmas), lr_max, lr_min, lr_schedule)
        self.ball = ThreatModel("l2", Pixels(rho_pur))

    def _check(self) -> None:
        if not (0 <= self.rho_pur < math.inf and 0 <= self.rho_sam < math.inf):
            raise ValueError(f"PurSAMERE needs radii of at least 0; got rho_pur={self.rho_pur}, rho_sam={self.rho_sam}")
        if self.draws < 1:
            raise ValueError(f"PurSAMERE needs at least one draw; got draws={self.draws}")
        if not 0 < self.lr_min <= self.lr_max:
            raise ValueError(f"PurSAMERE needs 0 < lr_min <= lr_max; got {self.lr_min} and {self.lr_max}")
        if self.projection not in ("ball_then_clamp", "exact"):
            raise ValueError(f"projection must be 'ball_then_clamp' or 'exact'; got {self.projection!r}")
        if self.ascent not in ("fresh", "reused"):
            raise ValueError(f"ascent must be 'fresh' or 'reused'; got {self.ascent!r}")
        if self.antithetic and self.draws % 2:
            raise ValueError(f"antithetic draws come in pairs; got draws={self.draws}")

    def purify(self, x: Tensor, noise: NoiseSource) -> Tensor:
        return self._descend(x, noise, None)

    def trajectory(self, x: Tensor, noise: NoiseSource | None = None) -> tuple[Tensor, Trajectory]:
        """Purify x and report the reconstruction error, the ascent norm and the distance at every level."""
        rows: list[tuple[Tensor, ...]] = []
        purified = self._descend(x.detach(), (noise or self.noise).once(x), rows)
        error, ascent_norm, distance = (torch.stack(column) for column in zip(*rows, strict=True))
        return purified, Trajectory(self.sigmas, self.lrs, error, ascent_norm, distance)

    def _descend(
        self, x_adv: Tensor, noise: NoiseSource, rows: list[tuple[Tensor, ...]] | None, begin: Tensor | None = None
    ) -> Tensor:
        """The last state of a descent in the ball around x_adv that begins there, or at another image."""
        # What one level hands to the next, all (B, C, H, W): the image, Adam's two moments, the gradient to be reused.
        begin = x_adv if begin is None else begin
        state: tuple[Tensor, ...] = (begin, torch.zeros_like(x_adv), torch.zeros_like(x_adv))
        for k, sigma in enumerate(self.sigmas, start=1):
            row: list[Tensor] = []
            xi = self._draw(noise, k, x_adv)
            step = partial(self._step, k=k, sigma=sigma, xi=xi, row=None if rows is None else row)
            state = self.checkpointed(step, x_adv, *state)
            if rows is not None:
                rows.append((*row, self.ball.distance(state[0], x_adv)))
        return state[0]

    def _draw(self, noise: NoiseSource, k: int, x_adv: Tensor) -> Tensor:
        """The draws of level k, (m, 1 or B, C, H, W)."""
        if not self.antithetic:
            return noise.draw("level", k, self.draws, x_adv)
        half = noise.draw("level", k, self.draws // 2, x_adv)
        return torch.cat([half, -half])

    def _step(
        self,
        x_adv: Tensor,
        x: Tensor,
        mean: Tensor,
        square: Tensor,
        *before: Tensor,
        k: int,
        sigma: float,
        xi: Tensor,
        row: list | None,
    ) -> tuple[Tensor, ...]:
        """One level of Algorithm 1: lines 5 to 10."""
        if before:
            (direction,) = before
        else:
            error, direction = self._error_and_gradient(x, sigma, xi)
        x_max, g = x, direction
        if self.rho_sam > 0:
            length = over_images(image_norm(direction, "l2"), direction) + 1e-12
            x_max = (x + self.rho_sam * direction / length).clamp(0, 1)
            reached, g = self._error_and_gradient(x_max, sigma, xi)
            error = reached if before else error
        if row is not None:
            row.extend([error.detach(), image_norm(x_max - x, "l2").detach()])
        step, mean, square = self._move(g, mean, square, k)
        kept = (g,) if self.ascent == "reused" and self.rho_sam > 0 else ()
        return self._project(x - step, x_adv), mean, square, *kept

    def _move(self, g: Tensor, mean: Tensor, square: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """What level k subtracts from the image, and the optimiser's two moments."""
        return adam_step(g, mean, square, k, self.lrs[k - 1])

    def _error_and_gradient(self, x: Tensor, sigma: float, xi: Tensor) -> tuple[Tensor, Tensor]:
        return self.gradient(partial(expected_reconstruction_error, self.score_model, sigma=sigma, noise=xi), x)

    def _project(self, x: Tensor, x_adv: Tensor) -> Tensor:
        if self.projection == "exact":
            return project_l2_ball_and_box(x, x_adv, self.rho_pur)
        return self.ball.project(x, x_adv)


def adam_step(g: Tensor, mean: Tensor, square: Tensor, k: int, lr: float) -> tuple[Tensor, Tensor, Tensor]:
    """What Adam subtracts at its k-th step, k = 1, 2, .., and its two moments; differentiable where g is 0."""
    mean = BETA1 * mean + (1 - BETA1) * g
    square = BETA2 * square + (1 - BETA2) * g * g
    scale = (square / (1 - BETA2**k) + torch.finfo(g.dtype).tiny).sqrt() + ADAM_EPS
    return lr * (mean / (1 - BETA1**k)) / scale, mean, square


def learning_rates(levels: int, lr_max: float, lr_min: float, schedule: str) -> tuple[float, ...]:
    """Learning rate of every level, `linear` or `as_printed` (see PurSAMERE); one level uses lr_max."""
    slope = (lr_max - lr_min) / max(levels - 1, 1)
    if schedule == "linear":
        return tuple(lr_max - slope * k for k in range(levels))
    if schedule == "as_printed":
        return (lr_max, *(lr_min + slope * k for k in range(levels - 1)))
    raise ValueError(f"lr_schedule must be 'linear' or 'as_printed'; got {schedule!r}")
