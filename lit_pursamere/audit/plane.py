"""The plane that the ways of two attacks span, ways seen on it, and what a defence loses at points of it.

References: Liu et al. (2025), appendix D; Li et al. (2018), "Visualizing the Loss Landscape of Neural Nets".

    e1 = d1         e2 = (d2 - <d2, e1> e1 / |e1|^2), made as long as e1         ends of both ways: (1, 0) and (a, b)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from lit_pursamere.attacks.base import silent
from lit_pursamere.attacks.gradients import Loss, adversarial_loss
from lit_pursamere.diffusion.image_noise import follow, stepped
from lit_pursamere.host import deferred

__all__ = ["Projection", "losses_at", "on_plane", "plane_of", "seen_flat"]

Projection = Literal["pca", "tsne"]


def plane_of(first: Tensor, second: Tensor) -> Tensor:
    """Axes (2, B, C, H, W) of the planes of two displacements (B, C, H, W), orthogonal and of the length of `first`.

    Without a part of `second` that is orthogonal to `first`, the second axis is 0.
    """
    along = inner(second, first) / inner(first, first).clamp_min(torch.finfo(first.dtype).tiny)
    rest = second - along * first
    left = inner(rest, rest).sqrt()
    scale = torch.where(left > 1e-4 * inner(second, second).sqrt(), inner(first, first).sqrt() / left, 0)
    return torch.stack([first, rest * scale])


def on_plane(displacements: Tensor, axes: Tensor) -> Tensor:
    """Coordinates (..., B, 2) of displacements (..., B, C, H, W), projected on planes with these axes."""
    units = axes.square().flatten(2).sum(2).clamp_min(torch.finfo(axes.dtype).tiny)
    return torch.stack([(displacements * axis).flatten(-3).sum(-1) / unit for axis, unit in zip(axes, units,
                        strict=True)], -1)  # fmt: skip


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of images (B, C, H, W), (B, 1, 1, 1)."""
    return (a * b).flatten(1).sum(1)[:, None, None, None]


def seen_flat(ways: Tensor, projection: Projection = "pca", seed: int = 0) -> Tensor:
    """Points (A, T, B, C, H, W) of A ways of every image, projected to the plane that shows all of its points best.

    Args:
        ways: What is projected, image by image.
        projection: `pca`, which keeps straight lines, or `tsne`, which keeps neighbourhoods.
        seed: Seed of t-SNE.

    Returns:
        (A, T, B, 2).
    """
    points = ways.flatten(3).movedim(2, 0).flatten(1, 2).cpu().double()
    flat = torch.stack([_tsne(image, seed) if projection == "tsne" else _pca(image) for image in points])
    return flat.unflatten(1, ways.shape[:2]).movedim(0, 2)


def _pca(points: Tensor) -> Tensor:
    """Principal coordinates (n, 2) of points (n, d), each axis pointing to where its largest entry is positive."""
    centred = points - points.mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    flat = torch.nn.functional.pad(u * s, (0, 2))[:, :2]
    return flat * flat.gather(0, flat.abs().argmax(0, keepdim=True)).sign()


def _tsne(points: Tensor, seed: int) -> Tensor:
    """Points (n, d) by t-SNE, (n, 2)."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(points) - 1) / 3)
    return torch.from_numpy(TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(points.numpy()))


@torch.no_grad()
@deferred()
def losses_at(
    defense: nn.Module,
    points: Tensor,
    y: Tensor,
    loss: Loss,
    keys: Tensor,
    progress: Callable[[int, int], None] = silent,
) -> tuple[Tensor, Tensor]:
    """What an attacker raises, and whether the defence errs, at points around images.

    Args:
        defense: Map from images to logits.
        points: (P, B, C, H, W); where they leave the pixel box, the images are those that clamping makes of them.
        y: True classes (B,).
        loss: See `adversarial_loss`.
        keys: Keys of the images (B,), from which fresh noise is made, other noise at every point.
        progress: Called with (points done, points in all).

    Returns:
        Losses (P, B), and misclassifications (P, B) as 0 and 1.
    """
    values, wrong = [], []
    for number, images in enumerate(points):
        with follow(stepped(keys, number)):
            logits = defense(images.clamp(0, 1))
        values.append(adversarial_loss(logits, y, loss))
        wrong.append((logits.argmax(1) != y).to(images))
        progress(number + 1, len(points))
    return torch.stack(values), torch.stack(wrong)
