"""The states of a purification on its way, as images; nobody who does not look pays for it.

x_0 = x;  x_k = what the purifier would return if it stopped after step k;  x_K = what it returns
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lit_pursamere.diffusion.noise import NoiseSource
from lit_pursamere.purifiers.base import STEP, Purifier

__all__ = ["purify_watched"]


@torch.no_grad()
def purify_watched(
    purifier: Purifier, x: Tensor, look: Callable[[int, Tensor], object], noise: NoiseSource | None = None
) -> Tensor:
    """Purify x, and show every state on the way: the same calls and draws, so the same result bit for bit.

    States of diffusions are shown as they are, at their own signal power: (u + 1) / 2. Diffusing an image forward is no
    step; what it leads to is seen after the first step back. A purifier that takes no steps shows x alone.

    Args:
        purifier: The purifier.
        x: Images (B, C, H, W) in [0, 1].
        look: Called with (0, x), and after every step k with (k, its images), (B, C, H, W) in [0, 1].
        noise: As for the purifier.

    Returns:
        Purified images (B, C, H, W).
    """
    count = 0

    def seen(module: Any, given: Any, state: tuple[Tensor, ...]) -> None:
        nonlocal count
        count += 1
        image = (state[0] + 1) / 2 if purifier.centred else state[0]
        look(count, image.clamp(0, 1))

    look(0, x)
    hook = STEP.register_forward_hook(seen)
    try:
        return purifier(x, noise)
    finally:
        hook.remove()
