"""What lies between the convolutions of the diffusion U-Nets: activations of normalised, scaled and shifted images.

    norm_act(h, norm, act, before, scale, shift)   act(norm(h + before) * (1 + scale) + shift)

Hands h on beside its result, as the functions of `fused` do. Where those would use their kernels, SiLU of a group norm
does too, if of all that goes in only h needs a gradient; otherwise the plain formula is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.networks import fused

__all__ = ["norm_act"]

Function: TypeAlias = Callable[[Tensor], Tensor]


def norm_act(
    h: Tensor,
    norm: nn.Module,
    act: Function,
    before: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """h (B, C, H, W), and the activation of its norm; what is added before, scales and shifts is (B, C)."""
    told = (before, scale, shift)
    if type(norm) is nn.GroupNorm and norm.affine and act is F.silu and fast(h, norm.weight, norm.bias, *told):
        rows = [t if t is None else t.expand(len(h), -1).contiguous() for t in told]
        return GroupNormSiLU.apply(h, norm.weight, norm.bias, *rows, norm.num_groups, norm.eps)
    return h, plain_norm_act(h, norm, act, *told)


def plain_norm_act(
    h: Tensor, norm: Function, act: Function, before: Tensor | None, scale: Tensor | None, shift: Tensor | None
) -> Tensor:
    h = norm(h if before is None else h + before[:, :, None, None])
    if scale is not None and shift is not None:
        h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return act(h)


def fast(h: Tensor, *others: Tensor | None) -> bool:
    """Whether the kernels can read all of this, and nothing but h needs a gradient."""
    if not fused.fast(h):
        return False
    trained = torch.is_grad_enabled()
    return not any(t is not None and (t.dtype != h.dtype or (trained and t.requires_grad)) for t in others)


class GroupNormSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
        *parts, groups, eps = given
        images, channels, height, width = h.shape
        out, statistics = torch.empty_like(h), h.new_empty((images, 4, channels))
        sizes = (height * width, channels, groups, images)
        fused.call("group_norm_silu", out, statistics, h, *parts, *sizes, eps)
        ctx.save_for_backward(h, statistics, *parts)
        ctx.set_materialize_grads(False)
        ctx.sizes, ctx.eps = sizes, eps
        return h, out

    @staticmethod
    def backward(ctx: Any, keep: Tensor | None, g: Tensor | None) -> tuple[Tensor | None, ...]:
        h, statistics, gamma, beta, *told = ctx.saved_tensors
        pixels, channels, groups, images = ctx.sizes
        if g is None:
            dh = keep
        elif torch.is_grad_enabled():
            norm = partial(F.group_norm, num_groups=groups, weight=gamma, bias=beta, eps=ctx.eps)
            dh = fused.again(lambda h: plain_norm_act(h, norm, F.silu, *told), (h,), keep, g)[0]
        else:
            dh = torch.empty_like(h)
            g, keep = fused.last(g), fused.last(keep)
            fused.call("group_norm_silu_back", dh, g, h, statistics, keep, pixels, channels, groups, images)
        return dh, *[None] * 7
