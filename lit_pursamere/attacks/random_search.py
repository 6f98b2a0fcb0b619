"""Brute force: many random points of the ball. A gradient attack that breaks fewer images is being misled.

Reference: Athalye, Carlini, Wagner (2018), section 3.1; Carlini et al. (2019), "On Evaluating Adversarial Robustness".

    repeat:  one point inside the ball, one on its surface;  keep the one with the largest margin
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.base import Attack, Outcome, Progress
from lit_pursamere.attacks.gradients import adversarial_loss
from lit_pursamere.host import deferred, onto, settle
from lit_pursamere.threat import image_norm, over_images

__all__ = ["RandomSearch"]


@dataclass(frozen=True)
class RandomSearch(Attack):
    """Try random points within the threat model; asks the view for values only, one batch per point.

    `last` is the point with the largest margin (best other logit minus the true one), `any` the first misclassified
    one, beginning with the image itself.

    Args:
        draws: Number of points inside the ball (as in a random start) and of points on its surface: corners (linf), or
            the sphere in Gaussian (l2) or Laplace (l1) directions. All are clamped to the box.
        seed: Seed of the points, which are the same displacements for every image.
    """

    draws: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1:
            raise ValueError(f"RandomSearch needs draws >= 1; got {self.draws}")

    @deferred()
    def perturb(self, view: nn.Module, x: Tensor, y: Tensor, progress: Progress) -> Outcome:
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            fooled = view(x).argmax(1) != y
            settle()  # what is wrong from the start shows here
            best, first, largest = x.clone(), x.clone(), torch.full_like(x.flatten(1)[:, 0], -torch.inf)
            for i in range(2 * self.draws):
                point = self._on_surface(x, generator) if i % 2 else self.budget.random_start(x, generator)
                logits = view(point)
                margin = adversarial_loss(logits, y, "margin").to(largest)
                better, hit = margin > largest, (logits.argmax(1) != y) & ~fooled
                best, largest = torch.where(over_images(better, x), point, best), torch.where(better, margin, largest)
                first, fooled = torch.where(over_images(hit, x), point, first), fooled | hit
                progress(i + 1, 2 * self.draws)
        return Outcome(best, torch.where(over_images(fooled, x), first, best))

    def _on_surface(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """A random point at distance eps, before clamping to the box."""
        direction = torch.randn((1, *x.shape[1:]), generator=generator).sign()
        if self.budget.norm == "l2":
            direction = torch.randn(direction.shape, generator=generator)
        if self.budget.norm == "l1":
            direction = direction * torch.empty(direction.shape).exponential_(generator=generator)
        direction = onto(direction, x.device, x.dtype)
        delta = self.budget.eps * direction / over_images(image_norm(direction, self.budget.norm), direction)
        return self.budget.project(x + delta, x)
