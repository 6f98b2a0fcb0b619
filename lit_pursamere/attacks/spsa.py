"""SPSA: gradient ascent without gradients, from values at random pairs of points.

Reference: Spall (1992); Uesato et al. (2018), "Adversarial Risk and the Dangers of Evaluating Against Weak Attacks".

    repeat:  v_k in {-1, 1}^d at random;  g = mean_k (l(x_adv + sigma v_k) - l(x_adv - sigma v_k)) / (2 sigma) * v_k
             x_adv = project(x_adv + step_size * direction(g), ball(x, eps) and box)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.gradients import LOSSES, Loss, adversarial_loss
from lit_pursamere.attacks.iterative import IterativeAttack, PerImage
from lit_pursamere.host import onto
from lit_pursamere.seeding import generator
from lit_pursamere.threat import Pixels, over_images

__all__ = ["SPSA"]


@dataclass(frozen=True)
class SPSA(IterativeAttack):
    """Ascent along gradients estimated from values only: for views whose gradient is masked, or missing.

    Costs steps * (2 * pairs + 1) evaluations of the view per image. Steps are steepest ascent instead of the
    reference's Adam.

    Args:
        step_size: Length of a step in the threat model's norm, [0, 1] pixel units. None: eps / 8, or 2.5 * eps / steps
            where that is more, so that a few steps cross the ball, too.
        pairs: Number of random pairs per step, the same for every image.
        sigma: Distance of a pair from the iterate in every pixel, in pixel units; pairs are clamped to the box.
        loss: `ce`, `margin` or `dlr`, see `gradients.adversarial_loss`.
        seed: Seed of the pairs.
        pairs_chunk: Pairs per forward pass, of two copies of all images each; bounds memory.
    """

    steps: int = 40
    step_size: Pixels | None = None
    pairs: int = 128
    sigma: Pixels = Pixels("0.001")  # noqa: RUF009 (an immutable value)
    loss: Loss = "margin"
    seed: int = 0
    pairs_chunk: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None and not 0 <= self.step_size < math.inf:
            raise ValueError(f"SPSA needs a step_size of at least 0, or none; got {self.step_size}")
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"SPSA needs a positive sigma; got {self.sigma}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {self.loss!r}")
        for name in ("pairs", "pairs_chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"SPSA needs {name} >= 1; got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"SPSA needs a seed of at least 0; got {self.seed}")

    def init(self, x: Tensor, y: Tensor) -> PerImage:
        return {"x_adv": x.clone(), "number": torch.zeros(len(x), dtype=torch.long)}  # seeds are made on the CPU

    def step(self, view: nn.Module, x: Tensor, y: Tensor, state: PerImage) -> tuple[PerImage, Tensor]:
        x_adv, number = state["x_adv"], state["number"]
        with torch.no_grad():
            wrong = view(x_adv).argmax(1) != y
            gradient = self._estimate(view, x_adv, y, number)
        step_size = self.budget.eps * max(1 / 8, 2.5 / self.steps) if self.step_size is None else self.step_size
        moved = x_adv + step_size * self.budget.ascent_direction(gradient)
        return {"x_adv": self.budget.project(moved, x), "number": number + 1}, wrong

    def _estimate(self, view: nn.Module, x_adv: Tensor, y: Tensor, number: Tensor) -> Tensor:
        """Estimate of the loss gradient (B, C, H, W); pairs belong to the image's own step number (B,)."""
        total = torch.zeros_like(x_adv)
        steps, own = number.unique(return_inverse=True)
        own = onto(own, x_adv.device)
        sources = [generator(self.seed, k) for k in steps.tolist()]
        for done in range(0, self.pairs, self.pairs_chunk):
            size = min(self.pairs_chunk, self.pairs - done)
            v = torch.stack([self._signs(source, size, x_adv) for source in sources], dim=1)[:, own]
            points = torch.stack([x_adv + self.sigma * v, x_adv - self.sigma * v]).clamp(0, 1)
            loss = adversarial_loss(view(points.flatten(0, 2)), y.repeat(2 * size), self.loss).unflatten(
                0, (2, size, -1)
            )
            total += sum(over_images(slope, x_adv) * sign for slope, sign in zip(loss[0] - loss[1], v, strict=True))
        return total / (2 * self.sigma * self.pairs)

    def _signs(self, source: torch.Generator, size: int, like: Tensor) -> Tensor:
        """Random signs (size, C, H, W)."""
        shape = (1, *like.shape[1:])
        signs = torch.cat([2 * torch.randint(2, shape, generator=source) - 1 for _ in range(size)])
        return onto(signs, like.device, like.dtype)
