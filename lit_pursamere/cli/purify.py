"""`lit-pursamere purify`: purify your own pictures.

lit-pursamere purify photos photos-purified --config configs/purifier/pursamere.yaml --device cuda
lit-pursamere purify images.npz purified --config configs/purifier/dp_ddim.yaml --purifier.seed 0

From Python, with any purifier: `lit_pursamere.purify.pictures.purify_images("photos", "photos-purified", purify)`.
"""

from __future__ import annotations

import torch

from lit_pursamere.purifiers import Purifier
from lit_pursamere.purify.pictures import purify_images

__all__ = ["purify"]


def purify(
    images: str,
    output: str,
    purifier: Purifier | None = None,
    device: str | None = None,
    batch_size: int = 64,
    seed: int = 0,
    convert: bool = False,
) -> None:
    """Purify your own pictures.

    Args:
        images: Folder with PNG and JPEG files, or a .npy or .npz file.
        output: Folder for the result; a second run continues there.
        purifier: File of a purifier
        device: cpu, cuda, cuda:1 ... (default: cuda where there is one).
        batch_size: Images per batch.
        seed: Fixes the draws of purifiers with fresh noise.
        convert: Turn grey into colour, or colour into grey, if need be.

    Raises:
        ValueError: If an argument is wrong, or pictures could not be purified.
        OSError: If files cannot be read or written.
    """
    if purifier is None:
        raise ValueError("which purifier? Give --config with its file, such as configs/purifier/pursamere_digits.yaml")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's ways to say that there is none
        raise ValueError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error
    count = purify_images(images, output, purifier.to(device), batch_size, seed, convert, hidden=False)
    print(f"{count} images purified in {output}")
