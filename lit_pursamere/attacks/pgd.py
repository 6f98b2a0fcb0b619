"""Projected gradient descent (Madry et al., 2018); one step of it is FGSM (Goodfellow et al., 2015).

Reference: "Towards Deep Learning Models Resistant to Adversarial Attacks", eq. (3).

    repeat:  g = mean over eot draws of grad_x CE(view(x_adv), y)
             x_adv = project(x_adv + step_size * direction(g), ball(x, eps) and box)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.attacks.base import IterativeAttack, PerImage
from lit_pursamere.threat import Pixels, largest_signs

__all__ = ["PGD"]


@dataclass(frozen=True)
class PGD(IterativeAttack):
    """Projected gradient ascent on the cross-entropy, per image, in linf, l2 or l1.

    Args:
        threat: What the attacker may change.
        gradient: View that the attack differentiates: `gray`, `bpda` or `exact`.
        steps: Number of steps; 1 with step_size = eps is FGSM.
        stop_on_success: Whether images leave as soon as the view misclassifies them.
        step_size: Length of a step in the threat model's norm, [0, 1] pixel units. None: 2.5 * eps / steps.
        direction: `steepest` is the ascent direction of the norm (linf sign, l2 normalised gradient, l1 signs of
            the 5 % largest entries); `sign` steps by the sign in any norm (ADBM's l2 attack: step_size per pixel);
            `top1` moves the one coordinate with the largest gradient (l1).
        random_start: Whether to start from a random point of the ball instead of the image.
        seed: Seed of the random start.
        eot: Number of independent evaluations whose loss gradients are averaged (stochastic defences).

    Raises:
        ValueError: If a number is out of range.
    """

    step_size: Pixels | None = None
    direction: Literal["steepest", "sign", "top1"] = "steepest"
    random_start: bool = False
    seed: int = 0
    eot: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None and not 0 <= self.step_size < math.inf:
            raise ValueError(f"PGD needs a step_size of at least 0, or none; got {self.step_size}")
        if self.direction not in ("steepest", "sign", "top1"):
            raise ValueError(f"direction must be 'steepest', 'sign' or 'top1'; got {self.direction!r}")
        if self.eot < 1:
            raise ValueError(f"PGD needs eot >= 1; got {self.eot}")

    def init(self, x: Tensor, y: Tensor) -> PerImage:
        if not self.random_start:
            return {"x_adv": x.clone()}
        return {"x_adv": self.threat.random_start(x, torch.Generator().manual_seed(self.seed))}

    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: PerImage) -> tuple[PerImage, Tensor]:
        gradient, wrong = loss_gradient(view, state["x_adv"], y, self.eot)
        step_size = 2.5 * self.threat.eps / self.steps if self.step_size is None else self.step_size
        moved = state["x_adv"] + step_size * self._direction(gradient)
        return {"x_adv": self.threat.project(moved, x)}, wrong

    def _direction(self, gradient: Tensor) -> Tensor:
        if self.direction == "sign":
            return gradient.sign()
        if self.direction == "top1":
            return largest_signs(gradient, 1)
        return self.threat.ascent_direction(gradient)


def loss_gradient(view: nn.Module, x_adv: Tensor, y: Tensor, eot: int = 1) -> tuple[Tensor, Tensor]:
    """Gradient of the cross-entropy at x_adv (B, C, H, W), averaged over `eot` evaluations in one batch.

    The loss is summed over the batch, so that no image feels its neighbours.

    Returns:
        The gradient (B, C, H, W), and whether more than half of the evaluations were wrong, (B,).

    Raises:
        RuntimeError: If the view's output does not depend on its input differentiably.
    """
    x_adv = x_adv.detach().requires_grad_()
    logits = view(x_adv.repeat(eot, 1, 1, 1) if eot > 1 else x_adv)
    targets = y.repeat(eot)
    loss = F.cross_entropy(logits, targets, reduction="sum") / eot
    gradient = torch.autograd.grad(loss, x_adv, allow_unused=True)[0] if loss.requires_grad else None
    if gradient is None:
        raise RuntimeError(
            "the attacked view returned logits without a gradient; run with inference_mode false, and check that "
            "nothing in the defence detaches its input"
        )
    wrong = (logits.detach().argmax(1) != targets).float().unflatten(0, (eot, len(y))).mean(0) > 0.5
    return gradient, wrong
