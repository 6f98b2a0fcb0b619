"""The gradient that attacks follow, of deterministic and of stochastic views (expectation over transformation).

References: Athalye, Carlini, Wagner (2018), section 4.2 (EoT); Croce, Hein (2020), eq. (6) (DLR).

    z_k = view(x_adv), k = 1..eot          slope_k = dl/dz at z_k, or at the mean of all z_k (logit_mean)
    grad_mean, logit_mean:  mean_k (dz_k/dx)^T slope_k          sign_vote:  sum_k sign((dz_k/dx)^T slope_k)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_pursamere.diffusion.image_noise import repeated_draws
from lit_pursamere.host import note

__all__ = [
    "EOT_MODES",
    "LOSSES",
    "NO_GRADIENT",
    "EotMode",
    "Loss",
    "adversarial_loss",
    "check_labels",
    "chunks",
    "draw_gradients",
    "evaluate_copies",
    "loss_gradient",
    "pull_back",
]

Loss = Literal["ce", "margin", "dlr"]
EotMode = Literal["grad_mean", "logit_mean", "sign_vote"]
LOSSES: tuple[str, ...] = get_args(Loss)
EOT_MODES: tuple[str, ...] = get_args(EotMode)
NO_GRADIENT = (
    "the attacked view returned logits without a gradient; run with inference_mode false, and check that nothing in "
    "the defence detaches its input"
)


def check_labels(y: Tensor, images: int, classes: int | None = None) -> None:
    """Refuse labels that are not one class number per image.

    Args:
        y: True classes (B,).
        images: Number of images B.
        classes: Number of classes K. None: not known, and labels may be any integers.

    Raises:
        ValueError: If y has another shape, is not of an integer type, or leaves 0..K-1 (which is noted, see
            `host`).
    """
    if y.shape != (images,) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(
            f"labels must be one class number per image, integers of shape ({images},); got {y.dtype} of shape "
            f"{tuple(y.shape)}"
        )
    if len(y) and classes is not None:
        note(partial(_refuse_classes, classes), *torch.aminmax(y))


def _refuse_classes(classes: int, low: int, high: int) -> None:
    if low < 0 or high >= classes:
        known = f"from 0 to {classes - 1}, as the view has {classes} logits"
        raise ValueError(f"labels must be class numbers {known}; they range from {low} to {high}")


def adversarial_loss(logits: Tensor, y: Tensor, loss: Loss = "ce") -> Tensor:
    """What an attacker raises, per image.

    Args:
        logits: (B, K).
        y: True classes (B,).
        loss: `ce` is the cross-entropy; `margin` the best other logit minus the true one, positive if misclassified;
            `dlr` the margin divided by the gap between the largest and the third largest logit, blind to their scale.

    Returns:
        Loss of every image (B,).

    Raises:
        ValueError: If the loss is unknown, a label is no class, or `dlr` has fewer than three classes.
    """
    check_labels(y, *logits.shape)
    y = y.clamp(0, logits.shape[1] - 1)  # until the note is read, a wrong label must not index beyond the logits
    if loss == "ce":
        return F.cross_entropy(logits, y, reduction="none")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
    true = logits.gather(1, y[:, None]).squeeze(1)
    other = logits.scatter(1, y[:, None], -torch.inf).amax(1)
    if loss == "margin":
        return other - true
    if logits.shape[1] < 3:
        raise ValueError(f"loss dlr needs three classes, the view has {logits.shape[1]}; use loss margin or ce")
    top = logits.topk(3, dim=1).values
    return (other - true) / (top[:, 0] - top[:, 2] + 1e-12)


def loss_gradient(
    view: nn.Module,
    x_adv: Tensor,
    y: Tensor,
    eot: int = 1,
    loss: Loss = "ce",
    mode: EotMode = "grad_mean",
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradient of the loss at x_adv (B, C, H, W), over `eot` evaluations of the view.

    The loss is summed over the batch, so that no image feels its neighbours. `logit_mean` in several chunks asks the
    view twice for the same draws, first for the mean logits, by winding noise and torch's global generators back.

    Args:
        view: Map from images to logits (B, K).
        x_adv: Where to differentiate.
        y: True classes (B,).
        eot: Number of evaluations.
        loss: See `adversarial_loss`.
        mode: How evaluations are combined, see the head of this file.
        chunk: Evaluations per forward pass, of B images each. None: all in one pass.

    Returns:
        The gradient (B, C, H, W), and whether the view misclassified each image, (B,): by more than half of the
        evaluations, or by the mean logits if these are what is attacked.

    Raises:
        RuntimeError: If the view's output does not depend on its input differentiably.
    """
    sizes = chunks(eot, chunk)
    mean = _mean_logits(view, x_adv, sizes) if mode == "logit_mean" and len(sizes) > 1 else None
    total, votes = torch.zeros_like(x_adv), torch.zeros_like(y)
    for size in sizes:
        copies, logits = evaluate_copies(view, x_adv, size)
        at = logits.detach()
        if mode == "logit_mean":
            mean = at.mean(0) if mean is None else mean
            at = mean.expand_as(at)
        gradient = pull_back(logits, copies, _slope(at.flatten(0, 1), y.repeat(size), loss).view_as(logits))
        if mode == "sign_vote":
            gradient = gradient.sign()
        total += gradient.unflatten(0, (size, -1)).sum(0)
        votes += (at.argmax(2) != y).sum(0)
    return total if mode == "sign_vote" else total / eot, votes > eot / 2


def draw_gradients(
    view: nn.Module, x_adv: Tensor, y: Tensor, eot: int = 1, loss: Loss = "ce", chunk: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the loss for every evaluation by itself; arguments and errors are those of `loss_gradient`.

    Returns:
        Gradients (eot, B, C, H, W), losses (eot, B), and whether the view misclassified, (eot, B).
    """
    parts = []
    for size in chunks(eot, chunk):
        copies, logits = evaluate_copies(view, x_adv, size)
        at, labels = logits.detach().flatten(0, 1), y.repeat(size)
        gradient = pull_back(logits, copies, _slope(at, labels, loss).view_as(logits))
        values = (gradient, adversarial_loss(at, labels, loss), at.argmax(1) != labels)
        parts.append([value.unflatten(0, (size, -1)) for value in values])
    gradients, losses, wrong = (torch.cat(column) for column in zip(*parts, strict=True))
    return gradients, losses, wrong


def chunks(eot: int, chunk: int | None) -> list[int]:
    """How many evaluations each call of a view makes, where it makes at most `chunk` of them; None: all at once."""
    most = chunk or eot
    return [min(most, eot - done) for done in range(0, eot, most)]


def evaluate_copies(view: Callable[[Tensor], Tensor], x_adv: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Copies of the images (size * B, C, H, W), to differentiate with respect to, and their logits (size, B, K)."""
    copies = x_adv.detach().repeat(size, *[1] * (x_adv.ndim - 1)).requires_grad_()
    return copies, view(copies).unflatten(0, (size, -1))


def _mean_logits(view: nn.Module, x_adv: Tensor, sizes: list[int]) -> Tensor:
    """Logits averaged over all evaluations, (B, K), leaving noise and torch's generators as they were."""
    with torch.no_grad(), repeated_draws():
        total: Any = sum(evaluate_copies(view, x_adv, size)[1].sum(0) for size in sizes)
        return total / sum(sizes)


def _slope(logits: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Gradient of the summed loss with respect to the logits (B, K)."""
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        return torch.autograd.grad(adversarial_loss(logits, y, loss).sum(), logits)[0]


def pull_back(logits: Tensor, copies: Tensor, slope: Tensor) -> Tensor:
    """Gradient with respect to the copies (n, C, H, W) where `slope` is that with respect to their logits.

    Raises:
        RuntimeError: If the logits do not depend on the copies differentiably.
    """
    gradient = torch.autograd.grad(logits, copies, slope, allow_unused=True)[0] if logits.requires_grad else None
    if gradient is None:
        raise RuntimeError(NO_GRADIENT)
    return gradient
