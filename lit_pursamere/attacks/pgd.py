"""Projected gradient descent (Madry et al., 2018); one step of it is FGSM (Goodfellow et al., 2015).

Reference: "Towards Deep Learning Models Resistant to Adversarial Attacks", eq. (3).

    x_adv = start(x)
    repeat:  g = mean over eot draws of grad_x CE(view(x_adv), y)
             x_adv = project(x_adv + step_size * direction(g), ball(x, eps) and box)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.gradients import EOT_MODES, LOSSES, EotMode, Loss, loss_gradient
from lit_pursamere.attacks.iterative import IterativeAttack, PerImage
from lit_pursamere.diffusion.image_noise import AT_HAND, next_keys
from lit_pursamere.seeding import generator
from lit_pursamere.threat import Pixels, box_noise, largest_signs, refuse_beyond_box

__all__ = ["PGD"]


@dataclass(frozen=True)
class PGD(IterativeAttack):
    """Projected gradient ascent on a loss, per image, in linf, l2 or l1; one step of step_size = eps is FGSM.

    Subclasses may change what is followed (`gradient`), where it leads (`move`, `unit_step`) and what is a success
    (`counts`).

    Args:
        step_size: Length of a step in the threat model's norm, [0, 1] pixel units. None: 2.5 * eps / steps.
        direction: `steepest` is the ascent direction of the norm (linf sign, l2 normalised gradient, l1 signs of
            the 5 % largest entries); `sign` steps by the sign in any norm (ADBM's l2 attack: step_size per pixel);
            `top1` moves the one coordinate with the largest gradient (l1).
        start: `none` is the image itself; `ball` a random point of the ball; `box-noise` adds uniform noise in
            [-eps, eps] to every pixel in any norm (in l2 and l1 this leaves the ball, and the first step brings it
            back); `laplace` adds a Laplace direction of uniform l1 length up to eps. All stay in the box.
        seed: Seed of the start, which is the same displacement for every image. Where images are followed, see
            `diffusion.image_noise`, every image has its own: so in a training, in every epoch another one.
        eot: Number of independent evaluations of a stochastic defence per step.
        loss: `ce`, `margin` or `dlr`, see `gradients.adversarial_loss`.
        eot_mode: `grad_mean` follows the mean of the loss gradients; `logit_mean` the gradient of the loss of the mean
            logits; `sign_vote` the sum of the signs of the gradients.
        eot_chunk: Evaluations per forward pass, of all images each; bounds memory, changes no result. None: all.
    """

    step_size: Pixels | None = None
    direction: Literal["steepest", "sign", "top1"] = "steepest"
    start: Literal["none", "ball", "box-noise", "laplace"] = "none"
    seed: int = 0
    eot: int = 1
    loss: Loss = "ce"
    eot_mode: EotMode = "grad_mean"
    eot_chunk: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.step_size is not None and not 0 <= self.step_size < math.inf:
            raise ValueError(f"{name} needs a step_size of at least 0, or none; got {self.step_size}")
        if self.step_size is not None and self.threat is not None and self.threat.norm == "linf":
            refuse_beyond_box("step_size", self.step_size)
        if self.direction not in ("steepest", "sign", "top1"):
            raise ValueError(f"direction must be 'steepest', 'sign' or 'top1'; got {self.direction!r}")
        if self.start not in ("none", "ball", "box-noise", "laplace"):
            raise ValueError(f"start must be 'none', 'ball', 'box-noise' or 'laplace'; got {self.start!r}")
        if self.eot < 1:
            raise ValueError(f"{name} needs eot >= 1; got {self.eot}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {self.loss!r}")
        if self.eot_mode not in EOT_MODES:
            raise ValueError(f"eot_mode must be one of {', '.join(EOT_MODES)}; got {self.eot_mode!r}")
        if self.eot_chunk is not None and self.eot_chunk < 1:
            raise ValueError(f"{name} needs eot_chunk >= 1, or none; got {self.eot_chunk}")

    def init(self, x: Tensor, y: Tensor) -> PerImage:
        if self.start == "none":
            return {"x_adv": x.clone()}
        if AT_HAND.get() is None:
            return {"x_adv": self.started(x, torch.Generator().manual_seed(self.seed))}
        keys = [key % 2**64 for key in next_keys(x).tolist()]
        starts = [self.started(one, generator(self.seed, key)) for one, key in zip(x.split(1), keys, strict=True)]
        return {"x_adv": torch.cat(starts)}

    def started(self, x: Tensor, draws: torch.Generator) -> Tensor:
        """Images x (B, C, H, W), all of them displaced alike."""
        if self.start == "box-noise":
            return box_noise(x, self.budget.eps, draws)
        ball = replace(self.budget, norm="l1") if self.start == "laplace" else self.budget
        return ball.random_start(x, draws)

    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: PerImage) -> tuple[PerImage, Tensor]:
        gradient, wrong = self.gradient(view, state["x_adv"], y)
        return {"x_adv": self.move(state["x_adv"], x, gradient)}, wrong & self.counts(state["x_adv"], x)

    def gradient(self, view: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """What the step follows at x_adv (B, C, H, W), of that shape, and whether the view misclassifies it, (B,)."""
        return loss_gradient(view, x_adv, y, self.eot, self.loss, self.eot_mode, self.eot_chunk)

    def move(self, x_adv: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        """The next iterate: a step from x_adv that the gradient asks for, within the budget around x, (B, C, H, W)."""
        step_size = 2.5 * self.budget.eps / self.steps if self.step_size is None else self.step_size
        return self.budget.project(x_adv + step_size * self.unit_step(gradient), x)

    def unit_step(self, gradient: Tensor) -> Tensor:
        """The step (B, C, H, W) of length 1 that a gradient of that shape asks for."""
        if self.direction == "sign":
            return gradient.sign()
        if self.direction == "top1":
            return largest_signs(gradient, 1)
        return self.budget.ascent_direction(gradient)

    def counts(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Whether a misclassification of x_adv is a success, (B,): a start outside the ball around x is none."""
        if self.start != "box-noise":
            return torch.ones(len(x), dtype=torch.bool, device=x.device)
        return self.budget.distance(x_adv, x) <= self._reach(x)
