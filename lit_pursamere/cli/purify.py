"""`lit-pursamere purify`: purify your own pictures.

lit-pursamere purify photos purified --purifier configs/purifier/pursamere.yaml \
    --score_model configs/score_model/ncsnv2.yaml
lit-pursamere purify images.npz purified --purifier DP_DDIM --score_model configs/score_model/ddpm.yaml --noise fixed

From Python, with any purifier: `lit_pursamere.purify.pictures.purify_images("photos", "photos-purified", purify)`.
"""

from __future__ import annotations

import torch
from torch import nn

from lit_pursamere.diffusion import ScoreModel
from lit_pursamere.ending import ending
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purifiers.base import Knowledge, Recipe, complete
from lit_pursamere.purify.pictures import purify_images

__all__ = ["purify"]


def purify(
    images: str,
    output: str,
    purifier: Purifier | Recipe | None = None,
    score_model: ScoreModel | None = None,
    classifier: nn.Module | None = None,
    noise: Knowledge | None = None,
    device: str | None = None,
    batch_size: int = 64,
    seed: int = 0,
    convert: bool = False,
) -> None:
    """Purify your own pictures.

    Args:
        images: Folder with PNG and JPEG files, or a .npy or .npz file.
        output: Folder for the result; a second run continues there.
        purifier: Its class or file.
        score_model: Class or file of the score model, unless the purifier brings its own.
        classifier: Class or file of the classifier that guides COUP.
        noise: fresh, fixed, forward, or a number of tables (default: as in the purifier's paper).
        device: cpu, cuda, cuda:1 ... (default: cuda where there is one).
        batch_size: Images per batch.
        seed: Fixes the draws of purifiers with fresh noise.
        convert: Turn grey into colour, or colour into grey, if need be.

    Raises:
        ValueError: If an argument is wrong, or pictures could not be purified.
        OSError: If files cannot be read or written.
    """
    if purifier is None:
        raise ValueError("which purifier? Give its file, such as --purifier configs/purifier/pursamere.yaml")
    purifier = complete(purifier, score_model, noise, classifier)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's ways to say that there is none
        raise ValueError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error
    count = purify_images(images, output, purifier.to(device), batch_size, seed, convert, hidden=False)
    print(ending(f"{count} images purified in {output}", then=f"the same command, for what is added to {images}"))
