"""Threat models: the geometry of a norm ball around an image inside the pixel box [0, 1]^d. Knows no model.

References: l1 projection by sorting, Duchi et al. (ICML 2008); l1 ascent on the 5 % largest gradients as in the
official evaluation of ADBM (Li et al., 2025); intersection of l2 ball and box by its Lagrange multiplier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_pursamere.host import onto

__all__ = ["VIEWS", "Pixels", "ThreatModel", "View", "project_l2_ball_and_box"]

Norm = Literal["linf", "l2", "l1"]
# What the attacker differentiates; see defense.py.
View = Literal["gray", "bpda", "first_order", "adjoint", "surrogate", "exact"]
VIEWS: tuple[View, ...] = get_args(View)
L1_FRACTION = 0.05  # share of the coordinates that one l1 step moves


class Pixels(float):
    """A length in [0, 1] pixel units that may be written as a fraction, "8/255", and remembers how it was written."""

    text: str

    def __new__(cls, value: float | str) -> Pixels:
        text = str(value).strip()
        numerator, slash, denominator = text.partition("/")
        try:
            number = float(numerator) / float(denominator) if slash else float(text)
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"{value!r} is neither a number nor a fraction such as 8/255") from None
        pixels = super().__new__(cls, number)
        pixels.text = text
        return pixels

    def __str__(self) -> str:
        return self.text

    def plain(self) -> float | str:
        """The number, or the text of a fraction: what a configuration file should hold."""
        return self.text if "/" in self.text else float(self)

    def __reduce__(self) -> tuple[type[Pixels], tuple[str]]:  # pickling by value would lose the text
        return type(self), (self.text,)


def refuse_beyond_box(name: str, length: float) -> None:
    """Refuse a length per pixel that is longer than the pixel box is wide.

    Raises:
        ValueError: Naming it, and what was meant.
    """
    if length > 1:
        meant = f"; was {length:g}/255 meant?" if length <= 255 else ""
        raise ValueError(f"{name} {length:g} in linf is more than [0, 1], the range of a pixel{meant}")


def over_images(values: Tensor, x: Tensor) -> Tensor:
    """Shape one value per image, (B,), so that it broadcasts over x (B, ...)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def image_norm(delta: Tensor, norm: Norm) -> Tensor:
    """Norm of every image of a batch, (B, ...) -> (B,)."""
    order = {"linf": math.inf, "l2": 2, "l1": 1}[norm]
    return torch.linalg.vector_norm(delta.flatten(1), ord=order, dim=1)


@dataclass(frozen=True)
class ThreatModel:
    """All images of [0, 1]^d within `eps` of the clean one.

    Args:
        norm: `linf`, `l2` or `l1`.
        eps: Radius in [0, 1] pixel units (CIFAR-10 customs: linf 8/255, l2 0.5 or 1, l1 12). 0 allows nothing; linf 1
            reaches every image.

    Raises:
        ValueError: If the norm is unknown, or eps is negative, not a number, or above 1 in linf.
    """

    norm: Norm
    eps: Pixels

    def __post_init__(self) -> None:
        if self.norm not in ("linf", "l2", "l1"):
            raise ValueError(f"norm must be 'linf', 'l2' or 'l1'; got {self.norm!r}")
        if not 0 <= self.eps < math.inf:
            raise ValueError(f"eps must be a number of at least 0, in [0, 1] pixel units; got {self.eps}")
        if self.norm == "linf":
            refuse_beyond_box("eps", self.eps)

    @classmethod
    def of(cls, text: str) -> ThreatModel:
        """The threat model that is written "linf 8/255" or "l2 0.5".

        Raises:
            ValueError: If it is not a norm and a radius.
        """
        norm, _, eps = text.strip().partition(" ")
        if not eps.strip():
            raise ValueError(f'a threat model is a norm and a radius, such as "linf 8/255"; got {text!r}')
        return cls(norm, Pixels(eps))  # type: ignore[arg-type]

    @property
    def plain_eps(self) -> float | str:
        """The radius as a configuration has it, "8/255" if it was written so."""
        return self.eps.plain() if isinstance(self.eps, Pixels) else self.eps

    def __str__(self) -> str:
        over_255 = self.eps * 255
        tidy = self.norm == "linf" and abs(over_255 - round(over_255)) < 1e-6
        return f"{self.norm} {round(over_255)}/255" if tidy else f"{self.norm} {self.eps:g}"

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Bring x_adv (B, C, H, W) into the ball around x and into the box; feasible points come back bit for bit.

        Projects on the ball and then clamps to the box; clamping moves towards x, so the result stays in the ball.
        """
        if self.norm == "linf":
            return torch.minimum(torch.maximum(x_adv, x - self.eps), x + self.eps).clamp(0, 1)
        delta = x_adv - x
        distance = over_images(image_norm(delta, self.norm), x)
        if self.norm == "l2":
            inside = x + delta * (self.eps / distance.clamp_min(max(self.eps, torch.finfo(x.dtype).tiny)))
        else:
            inside = x + _project_l1_ball(delta.flatten(1), self.eps).reshape(x.shape)
        return torch.where(distance <= self.eps, x_adv, inside).clamp(0, 1)

    def random_start(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A random feasible point near x (B, C, H, W); every image gets the same displacement before clamping.

        One draw for all images keeps the start independent of the batch: uniform per pixel (linf), uniform in the
        ball (l2), or a Laplace direction of uniform length (l1). The generator lives on the CPU.
        """
        if self.norm == "linf":
            return box_noise(x, self.eps, generator)
        shape = (1, *x.shape[1:])
        direction = torch.randn(shape, generator=generator)
        if self.norm == "l1":  # sign * exponential is Laplace
            size = torch.empty(shape).exponential_(generator=generator)
            direction = direction.sign() * size
        power = 1 / direction.numel() if self.norm == "l2" else 1
        radius = torch.rand(1, generator=generator).item() ** power
        delta = radius * direction / over_images(image_norm(direction, self.norm), direction)
        return self.project(x + self.eps * onto(delta, x.device, x.dtype), x)

    def ascent_direction(self, grad: Tensor) -> Tensor:
        """Unit step that raises a loss with gradient grad (B, C, H, W), per image; 0 where the gradient is 0.

        linf: sign. l2: the normalised gradient. l1: signs of the 5 % largest entries, divided by their number.
        """
        if self.norm == "linf":
            return grad.sign()
        if self.norm == "l2":
            # By the largest entry first: squares of tiny or huge gradients leave the range of float32.
            largest = over_images(image_norm(grad, "linf"), grad)
            grad = grad / largest.clamp_min(torch.finfo(grad.dtype).tiny)
            return grad / over_images(image_norm(grad, "l2"), grad).clamp_min(torch.finfo(grad.dtype).tiny)
        return largest_signs(grad, max(1, round(L1_FRACTION * grad[0].numel())))

    def distance(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Distance between x_adv and x (B, C, H, W) in this norm, (B,)."""
        return image_norm(x_adv - x, self.norm)


def box_noise(x: Tensor, eps: float, generator: torch.Generator | None = None) -> Tensor:
    """Images x (B, C, H, W) with noise uniform in [-eps, eps] per pixel, the same for all of them, in the box."""
    delta = 2 * torch.rand((1, *x.shape[1:]), generator=generator) - 1
    return (x + eps * onto(delta, x.device, x.dtype)).clamp(0, 1)


def largest_signs(grad: Tensor, count: int) -> Tensor:
    """Signs of the `count` largest entries of every image, divided by their number: an l1 step of length 1."""
    flat = grad.flatten(1)
    chosen = flat.abs().topk(count, dim=1).indices
    step = torch.zeros_like(flat).scatter(1, chosen, flat.gather(1, chosen).sign() / count)
    return step.reshape(grad.shape)


def _project_l1_ball(delta: Tensor, radius: float) -> Tensor:
    """Euclidean projection of the rows of delta (B, d) on the l1 ball, by sorting."""
    ordered = delta.abs().sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - radius
    rank = torch.arange(1, delta.shape[1] + 1, device=delta.device, dtype=delta.dtype)
    active = (ordered * rank > excess).sum(1, keepdim=True).clamp_min(1)
    threshold = (excess.gather(1, active - 1) / active).clamp_min(0)
    return delta.sign() * (delta.abs() - threshold).clamp_min(0)


def project_l2_ball_and_box(x: Tensor, center: Tensor, radius: float, iterations: int = 80) -> Tensor:
    """Nearest point to x in the intersection of [0, 1]^d and the l2 ball around center.

    The solution is z(nu) = clamp((x + nu * center) / (1 + nu), 0, 1) with the smallest nu >= 0 that puts z in the
    ball; ||z(nu) - center|| falls with nu, so bisection finds it, from the feasible side.

    Args:
        x: Points (B, ...).
        center: Centers (B, ...) inside the box.
        radius: Radius in pixel units, at least 0.
        iterations: Bisection steps on nu / (1 + nu), computed in float64.

    Returns:
        Points of the shape of x; feasible points come back bit for bit.
    """
    p, c = x.detach().double(), center.detach().double()

    def blend(weight: Tensor) -> Tensor:  # weight = nu / (1 + nu) in [0, 1]
        return torch.lerp(p, c, over_images(weight, p)).clamp(0, 1)

    low = torch.zeros(len(x), dtype=p.dtype, device=p.device)
    high = torch.ones_like(low)
    for _ in range(iterations):
        middle = (low + high) / 2
        feasible = image_norm(blend(middle) - c, "l2") <= radius
        high, low = torch.where(feasible, middle, high), torch.where(feasible, low, middle)
    weight = over_images(high, x).to(x.dtype)
    if torch.is_grad_enabled() and (x.requires_grad or center.requires_grad):
        weight = _follow_radius(weight, x, center)
    done = over_images(image_norm(p.clamp(0, 1) - c, "l2") <= radius, x)
    return torch.where(done, x, torch.lerp(x, center, weight)).clamp(0, 1)


def _follow_radius(weight: Tensor, x: Tensor, center: Tensor) -> Tensor:
    """Give the multiplier the derivative that keeps ||z - center|| at the radius (implicit function theorem)."""
    z = x + weight * (center - x)
    free = (z > 0) & (z < 1)
    squared = (z.clamp(0, 1) - center).square().flatten(1).sum(1)
    slope = (2 * (z - center) * (center - x) * free).flatten(1).sum(1).detach()
    shift = torch.where(slope < 0, (squared - squared.detach()) / slope.clamp_max(-1e-12), 0)
    return weight - over_images(shift, x)
