"""How far COUP moves an image, against the bound of its paper.

Reference: Zhang et al. (2024), "Classifier Guidance Enhances Diffusion-Based Adversarial Purification by Preserving
Predictive Information", Proposition 2.

    |r(x) - x| <= gamma (C_s + C_p) + (e^gamma - 1) C_x + sqrt(e^(2 gamma) - 1) |eps|,   gamma = int_0^t* beta / 2

with 2 |score| <= C_s, 2 |guidance| <= C_p and |x| <= C_x in centred pixels. The proposition does not say which x the
last one is about. If it is every state on the way, the bound holds for every single path: |int beta/2 u dt| is at most
gamma C_x. If it is the image alone, it does not: the drift beta u / 2 carries a push on, so that a constant score
moves the image by (e^gamma - 1)(|x| + C_s), and gamma C_s is too little. `constant_score_motion` is that world.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lit_pursamere.diffusion import VP, ScoreModel
from lit_pursamere.purifiers import COUP
from lit_pursamere.worlds.coup_toy import MEAN, DisturbedClassifier, OwnNoise
from lit_pursamere.worlds.theory import smooth_mixture_score

__all__ = ["ConstantScore", "Motion", "constant_score_motion", "coup_motion", "proposition_2_bound", "time_integral"]


class Motion(NamedTuple):
    """How far images move, and the constants of their paths: |x|, 2 |score|, 2 |guidance|, |eps|; each (B,)."""

    moved: Tensor
    c_x: Tensor
    c_s: Tensor
    c_p: Tensor
    eps: Tensor


class ConstantScore(ScoreModel):
    """A score model whose VP score is the same number in every pixel at every state and time.

    Args:
        value: The score, in centred pixels.
    """

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        sigma_u = 2 * torch.as_tensor(sigma, dtype=y.dtype)
        return torch.full_like(y, -self.value) * sigma_u / (1 + sigma_u**2).sqrt()


class StateWatch(ScoreModel):
    """Passes everything on, and remembers the largest state and the largest score of every image."""

    def __init__(self, inner: ScoreModel) -> None:
        super().__init__()
        self.inner = inner
        self.state = self.score_ = torch.zeros(())

    def forward(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        xi_hat = self.inner(y, sigma)
        sigma_u = 2 * torch.as_tensor(sigma, dtype=y.dtype)
        u, score = (2 * y - 1) / (1 + sigma_u**2).sqrt(), xi_hat * (1 + sigma_u**2).sqrt() / sigma_u
        self.state = torch.maximum(self.state, u.flatten(1).norm(dim=1))
        self.score_ = torch.maximum(self.score_, score.flatten(1).norm(dim=1))
        return xi_hat


def time_integral(t_star: float, dt: float = 1e-3) -> float:
    """gamma = int_0^t* beta / 2 as COUP's Euler steps of length dt sum it; dt = 0 is the integral itself."""
    if dt == 0:
        return -float(VP.alpha_bar(torch.tensor(t_star, dtype=torch.float64)).log()) / 2
    return sum(step.beta * step.dt / 2 for step in VP.reverse_steps(t_star, 0, dt))


def proposition_2_bound(motion: Motion, t_star: float, propagated: bool = False) -> Tensor:
    """Right-hand side of Proposition 2 for every path (B,).

    Args:
        motion: Constants of the paths.
        t_star: Time at which they start.
        propagated: Whether e^gamma - 1 stands in place of gamma: what a push becomes on its way. With it C_x may be
            the length of the image alone.
    """
    gamma = time_integral(t_star)
    grown = math.expm1(gamma)
    push = (grown if propagated else gamma) * (motion.c_s + motion.c_p)
    return push + grown * motion.c_x + math.sqrt(math.expm1(2 * gamma)) * motion.eps


def coup_motion(t_star: float, lam: float = 1.0, runs: int = 1000, seed: int = 0) -> Motion:
    """Purify points of the two classes of COUP's toy, guided by Bayes' classifier, and take the constants of each path.

    Args:
        t_star: Time at which the purification starts.
        lam: Weight of the guidance, which is at most lam / 2 here.
        runs: Number of purifications, from starts spread over [-1/2, 1/2] in centred pixels.
        seed: Seed of the noise.
    """
    x = torch.linspace(0.25, 0.75, runs, dtype=torch.float64).reshape(-1, 1, 1, 1)
    watch = StateWatch(smooth_mixture_score(((1 - MEAN) / 2, (1 + MEAN) / 2), std=0.5))
    coup, steps = COUP(watch, DisturbedClassifier(), lam=lam, t_star=t_star), VP.reverse_steps(t_star, 0, 1e-3)
    last = coup.purify(x, OwnNoise(seed))  # without the box: the proposition knows none
    noise, total = OwnNoise(seed), torch.zeros_like(x)
    for k, step in enumerate(steps, start=1):
        total += (step.beta * step.dt) ** 0.5 * noise.draw("reverse", k, 1, x)[0]
    eps = total.flatten().abs() / math.sqrt(2 * time_integral(t_star))
    moved = 2 * (last - x).flatten().abs()
    return Motion(moved, watch.state, 2 * watch.score_, torch.full_like(moved, lam), eps)


def constant_score_motion(t_star: float, score: float = 1.0, start: float = 0.2) -> tuple[Motion, Motion]:
    """Move one image by a constant score, without noise and guidance.

    Args:
        t_star: Time at which it starts.
        score: In centred pixels, above 0.
        start: The image, in centred pixels, above 0.

    Returns:
        The motion with |x| of the image alone as C_x, and with the largest state as C_x.
    """
    watch, x = StateWatch(ConstantScore(score)), torch.full((1, 1, 1, 1), (start + 1) / 2, dtype=torch.float64)
    last = COUP(watch, lam=0, t_star=t_star, stochastic=False).purify(x, OwnNoise(0))
    moved, none = 2 * (last - x).flatten().abs(), torch.zeros(1, dtype=torch.float64)
    alone = Motion(moved, torch.full_like(none, start), torch.full_like(none, 2 * score), none, none)
    return alone, alone._replace(c_x=watch.state)
