"""What lies between the convolutions of NCSNv2: normalised activations, activations of sums, poolings.

    norm_elu(h)   elu(gamma * IN(h) + gamma * alpha * contrast + beta)
    add_elu(h, u) s = h + u and elu(s)                   (u may be missing)
    pool(h)       5x5 max pooling, stride 1

Each hands its input on beside its result, so that on the way back the gradient that comes by the other way is added in
the same pass. Where `kernels` has them, and for what the kernels can do, float32 images on a CPU in channels last, they
run there; otherwise, and wherever a gradient will be differentiated itself, the plain formulas below do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lit_pursamere.networks.kernels import library

__all__ = ["add_elu", "norm_elu", "plain_norm", "pool"]

EPS = 1e-5
LAST = torch.channels_last


def plain_norm(h: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """InstanceNorm++ of h (B, C, H, W): IN(h), and how the mean of a channel stands among the means."""
    # gamma * (IN(h) + alpha * m) + beta is affine in h, so it costs one read for the moments and one pass
    # for the map instead of five passes.
    var, mean = torch.var_mean(h, dim=(2, 3), correction=0)
    spread = torch.var(mean, dim=1, keepdim=True)
    contrast = (mean - mean.mean(dim=1, keepdim=True)) * torch.rsqrt(spread + EPS)
    scale = gamma * torch.rsqrt(var + EPS)
    shift = gamma * alpha * contrast + beta - scale * mean
    return torch.addcmul(shift[:, :, None, None], h, scale[:, :, None, None])


def plain_norm_elu(h: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return F.elu(plain_norm(h, alpha, gamma, beta))


def plain_pool(h: Tensor) -> Tensor:
    return F.max_pool2d(h, 5, stride=1, padding=2)


def norm_elu(h: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """h (B, C, H, W), and ELU of its InstanceNorm++ with parameters (C,)."""
    if fast(h):
        return NormElu.apply(h, alpha, gamma, beta)
    return h, plain_norm_elu(h, alpha, gamma, beta)


def add_elu(h: Tensor, u: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """h + u (B, C, H, W), or h without u, and its ELU."""
    if fast(h) and (u is None or fast(u)):
        return AddElu.apply(h, u)
    h = h if u is None else h + u
    return h, F.elu(h)


def pool(h: Tensor) -> tuple[Tensor, Tensor]:
    """h (B, C, H, W), and the largest of 5x5 pixels around every pixel."""
    return Pool.apply(h) if fast(h) else (h, plain_pool(h))


def fast(h: Tensor) -> bool:
    """Whether the kernels are there, and this is a tensor that they can read."""
    return (
        type(h) is Tensor
        and h.device.type == "cpu"
        and h.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and h.is_contiguous(memory_format=LAST)
        and library() is not None
    )


def call(name: str, *arguments: Tensor | float | None) -> None:
    """Run a kernel with torch's number of threads."""
    values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
    getattr(library(), name)(*values, torch.get_num_threads())


def last(g: Tensor | None) -> Tensor | None:
    return None if g is None else g.contiguous(memory_format=LAST)


def again(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], keep: Tensor | None, g: Tensor) -> list[Any]:
    """Gradients by the plain formula, as part of a graph."""
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    out = function(*inputs)
    found = iter(torch.autograd.grad(out, wanted, g, create_graph=True))
    first, *others = (next(found) if tensor.requires_grad else None for tensor in inputs)
    return [first if keep is None or first is None else keep + first, *others]


class NormElu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, alpha: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        images, channels, height, width = h.shape
        out, statistics = torch.empty_like(h), h.new_empty((images, 3, channels))
        call("norm_elu", out, statistics, h, alpha, gamma, beta, height * width, channels, images)
        ctx.save_for_backward(h, alpha, gamma, beta, out, statistics)
        ctx.set_materialize_grads(False)
        return h, out

    @staticmethod
    def backward(ctx: Any, keep: Tensor | None, g: Tensor | None) -> tuple[Tensor | None, ...]:
        h, alpha, gamma, beta, out, statistics = ctx.saved_tensors
        if g is None:
            return keep, None, None, None
        if torch.is_grad_enabled():
            return tuple(again(plain_norm_elu, (h, alpha, gamma, beta), keep, g))
        images, channels, height, width = h.shape
        g, keep = last(g), last(keep)
        dh, sums = torch.empty_like(h), h.new_empty((images, 2, channels))
        call("norm_elu_back", dh, sums, g, out, h, statistics, alpha, gamma, keep, height * width, channels, images)
        if not any(ctx.needs_input_grad[1:]):
            return dh, None, None, None
        _, inverse, contrast = statistics.unbind(1)
        first, second = sums.unbind(1)
        by_gamma = (inverse * second + alpha * contrast * first).sum(0)
        return dh, (gamma * contrast * first).sum(0), by_gamma, first.sum(0)


class AddElu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor, u: Tensor | None) -> tuple[Tensor, Tensor]:
        total, out = h if u is None else torch.empty_like(h), torch.empty_like(h)
        call("add_elu", total, out, h, u, h[0].numel(), len(h))
        ctx.save_for_backward(out)
        ctx.set_materialize_grads(False)
        ctx.one = u is None
        return total, out

    @staticmethod
    def backward(ctx: Any, keep: Tensor | None, g: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        (out,) = ctx.saved_tensors
        if g is None:
            dh = keep
        elif torch.is_grad_enabled():
            dh = g * (out.clamp_max(0) + 1)  # ELU's slope follows from its value
            dh = dh if keep is None else keep + dh
        else:
            dh = torch.empty_like(out)
            call("elu_back", dh, last(g), out, last(keep), out[0].numel(), len(out))
        return dh, None if ctx.one else dh


class Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> tuple[Tensor, Tensor]:
        images, channels, height, width = h.shape
        out, which = torch.empty_like(h), torch.empty((2, h.numel()), dtype=torch.int32)
        call("pool", out, which, h, height, width, channels, images)
        ctx.save_for_backward(h, which)
        ctx.set_materialize_grads(False)
        return h, out

    @staticmethod
    def backward(ctx: Any, keep: Tensor | None, g: Tensor | None) -> Tensor | None:
        h, which = ctx.saved_tensors
        if g is None:
            return keep
        if torch.is_grad_enabled():
            return again(plain_pool, (h,), keep, g)[0]
        images, channels, height, width = h.shape
        dh = torch.empty_like(h)
        call("pool_back", dh, last(g), which, last(keep), height, width, channels, images)
        return dh
