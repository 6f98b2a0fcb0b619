"""Expectation over transformation in a library's attack: all draws of a step in one batch.

    z_k = view(x), k = 1..eot, chunk by chunk      out = z_eot, whose gradient is mean_k dl(z_k)/dx whatever comes back

A library that averages by itself calls the view `eot` times, one batch of images each. Here it calls once, and takes
the loss and the decisions of a step from the last draw, as after its own loop. Copies of a batch get the same noise as
calls in turn (`diffusion.image_noise`), so results are the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.gradients import adversarial_loss, chunks, evaluate_copies, pull_back

__all__ = ["FoldedView", "LossOf", "mean_margin"]

LossOf = Callable[[Tensor, Tensor], Tensor]  # logits (B, K) and classes (B,) to what is raised, (B,)


class FoldedView(nn.Module):
    """A view that answers a call with one draw, and differentiates as the mean of `eot` draws.

    The view is no submodule, as in `LibraryView`. Calls that ask for no gradient are passed on.

    Args:
        view: Map from images (B, C, H, W) to logits (B, K).
        eot: Draws that are averaged.
        chunk: Draws per call of the view, of B images each; bounds memory. None: all.
        loss: What the library differentiates.
    """

    def __init__(self, view: nn.Module, eot: int, chunk: int | None, loss: LossOf) -> None:
        super().__init__()
        self.training = False  # a library warns otherwise
        self.answer, self.sizes, self.loss = view.__call__, chunks(eot, chunk), loss
        self.labels = torch.empty(0, dtype=torch.long)  # true classes (B,) of the images that are differentiated next

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.answer(x)
        total = torch.zeros_like(x)
        for size in self.sizes:
            copies, logits = evaluate_copies(self.answer, x, size)
            total += pull_back(logits, copies, self._slopes(logits.detach())).unflatten(0, (size, -1)).sum(0)
        return _LastDraw.apply(x, logits[-1].detach(), total.detach() / sum(self.sizes))

    def _slopes(self, logits: Tensor) -> Tensor:
        """Gradients of the loss with respect to the logits of each draw, both (draws, B, K)."""
        with torch.enable_grad():
            logits = logits.requires_grad_()
            raised: Any = sum(self.loss(draw.clone(), self.labels).sum() for draw in logits)
            return torch.autograd.grad(raised, logits)[0]


class _LastDraw(torch.autograd.Function):
    """Logits of the last draw, with a gradient with respect to x that is known already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return logits.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        return *ctx.saved_tensors, None, None


def mean_margin(view: nn.Module, x: Tensor, y: Tensor, eot: int, chunk: int | None) -> Tensor:
    """The best other logit minus the true one, mean over `eot` draws of the view, (B,); arguments as in FoldedView."""
    total: Any = 0
    for size in chunks(eot, chunk):
        logits = view(x.expand(size, *x.shape).flatten(0, 1))
        total = total + adversarial_loss(logits, y.repeat(size), "margin").unflatten(0, (size, -1)).sum(0)
    return total / eot
