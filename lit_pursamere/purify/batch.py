"""One batch of images through a purifier, whatever the images come from: what it takes, and what it must give back."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.purifiers import Purifier
from lit_pursamere.seeding import reseed

__all__ = ["accepts", "device_of", "purify_batch"]

Shape = tuple[int, int, int]


def device_of(purifier: Purifier) -> torch.device:
    return next((tensor.device for tensor in purifier.state_dict().values()), torch.device("cpu"))


@torch.no_grad()
def accepts(purifier: Purifier, shape: Shape) -> bool:
    """Whether the score models of a purifier take images (C, H, W), found out by giving each of them one.

    Raises:
        ValueError: If not even one fits into the memory.
    """
    image = torch.full((1, *shape), 0.5, device=device_of(purifier))
    for module in purifier.modules():
        if isinstance(module, ScoreModel):
            try:
                if module(image, 0.5).shape != image.shape:
                    return False
            except torch.OutOfMemoryError as error:
                raise ValueError(f"is too large, {shape}, for the memory of {image.device}") from error
            except (RuntimeError, ValueError, IndexError):
                return False
    return True


@torch.no_grad()
def purify_batch(purifier: Purifier, x: Tensor, *seed: int) -> Tensor:
    """Purify a batch where the purifier is.

    Args:
        purifier: The purifier.
        x: Images (B, C, H, W) in [0, 1].
        seed: Numbers that fix the draws of purifiers with fresh noise.

    Returns:
        Purified images (B, C, H, W) in [0, 1], float32 on the CPU.

    Raises:
        ValueError: If the batch is too large for the device, or what comes out are no images.
    """
    reseed(*seed)
    device = device_of(purifier)
    try:
        purified = purifier(x.to(device)).float().cpu()
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"batches {tuple(x.shape)} do not fit into the memory of {device}; repeat the command with a smaller "
            "--batch_size"
        ) from error
    if purified.shape != x.shape or not (purified.min() >= 0 and purified.max() <= 1):  # NaN is neither
        raise ValueError(
            f"{type(purifier).__name__} made {tuple(purified.shape)} from {purified.min():g} to {purified.max():g} of "
            f"images {tuple(x.shape)} in [0, 1]; nothing of that batch was kept"
        )
    return purified
