"""How many draws make an average gradient point where the gradient of known noise points?

Reference: Liu et al. (2025), "Understanding and Enhancing the Robustness of Diffusion-Based Purification",
appendix A (Figure 7).

    g_j = gradient of the loss at x under fresh noise, j = 1..K
    for k in counts:  mean over groups of k draws of  cos(mean of g_j in the group, reference)
    references        the gradient at x under the known noise; x_adv - x of the attack that knows the noise
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from lit_pursamere.attacks.base import Attack
from lit_pursamere.attacks.gradients import Loss, draw_gradients, loss_gradient
from lit_pursamere.host import deferred

__all__ = ["Cosines", "eot_similarity"]


class Cosines(NamedTuple):
    """Cosines (B, len(counts)) between averages of k gradients and what the attacker who knows the noise follows.

    `gradient`: with his gradient at the image. `direction`: with the way that his whole attack goes, x_adv - x.
    """

    gradient: Tensor
    direction: Tensor


@deferred()
def eot_similarity(
    view: nn.Module,
    known: nn.Module,
    attack: Attack,
    x: Tensor,
    y: Tensor,
    counts: Sequence[int],
    chunk: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Cosines:
    """Compare averaged gradients of a stochastic view with those of its twin whose noise is known.

    Of the max(counts) gradients that are drawn, all disjoint groups of k are averaged, so that small k, too, use all
    draws.

    Args:
        view: Stochastic map from images to logits (B, K), from torch's global generators or its own.
        known: The same with fixed noise.
        attack: What the attacker does who knows the noise; its loss (cross-entropy if it has none) is differentiated.
        x: Images (B, C, H, W) in [0, 1].
        y: True classes (B,).
        counts: Numbers k of draws, each at least 1.
        chunk: Draws per forward pass, of B images each; None: all in one pass.
        progress: Called with (draws done, draws in all).

    Returns:
        Cosines in [-1, 1], of every image; 0 where a gradient vanishes.

    Raises:
        ValueError: If there is no count, or one is below 1.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"eot_similarity needs counts of at least 1; got {list(counts)}")
    draws = max(counts)
    loss: Loss = getattr(attack, "loss", "ce")
    references = torch.stack([loss_gradient(known, x, y, loss=loss)[0], attack(known, x, y).last - x]).flatten(2)
    parts = []
    for done in range(0, draws, chunk or draws):
        size = min(chunk or draws, draws - done)
        parts.append(draw_gradients(view, x, y, size, loss)[0].flatten(2))
        if progress is not None:
            progress(done + size, draws)
    gradients = torch.cat(parts)  # (K, B, d)
    cosines = []
    for k in counts:
        groups = gradients[: draws // k * k].unflatten(0, (-1, k)).mean(1)
        cosines.append(cosine_similarity(groups[:, None], references, dim=-1).mean(0))  # (2, B)
    return Cosines(*torch.stack(cosines, dim=-1))
