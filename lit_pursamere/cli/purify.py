"""`lit-pursamere purify`: purify your own pictures.

lit-pursamere purify photos photos-purified --config configs/purifier/pursamere.yaml --device cuda
lit-pursamere purify images.npz purified --config configs/purifier/dp_ddim.yaml --purifier.seed 0

From Python, with any purifier: `lit_pursamere.purify.pictures.purify_images("photos", "photos-purified", purify)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
import yaml
from jsonargparse import ArgumentParser

from lit_pursamere.purifiers import Purifier
from lit_pursamere.purify.pictures import purify_images

__all__ = ["run"]

EXAMPLE = "such as configs/purifier/pursamere_digits.yaml"


def run(args: Sequence[str]) -> None:
    """Purify pictures as the command line says, and print how many there are.

    Args:
        args: The command line behind `lit-pursamere purify`.

    Raises:
        ValueError: If an argument is wrong, or pictures could not be purified.
        OSError: If files cannot be read or written.
    """
    parser = _parser()
    parsed = parser.parse_args(_as_purifier(args))
    if parsed.purifier is None:
        raise ValueError(f"which purifier? Give --config with its file, {EXAMPLE}")
    device = parsed.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's ways to say that there is none
        raise ValueError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error
    purifier = parser.instantiate(parsed).purifier.to(device)
    count = purify_images(
        parsed.images, parsed.output, purifier, parsed.batch_size, parsed.seed, parsed.convert, hidden=False
    )
    print(f"{count} images purified in {parsed.output}")


def _parser() -> ArgumentParser:
    parser = ArgumentParser("lit-pursamere purify", description="Purify your own pictures.", exit_on_error=False)
    parser.add_argument("images", type=str, help="folder with PNG and JPEG files, or a .npy or .npz file")
    parser.add_argument("output", type=str, help="folder for the result; a second run continues there")
    parser.add_subclass_arguments(Purifier, "purifier", help="file of a purifier; --config is another name for it")
    parser.add_argument("--device", type=str | None, help="cpu, cuda, cuda:1 ... (default: cuda where there is one)")
    parser.add_argument("--batch_size", type=int, default=64, help="images per batch (default: 64)")
    parser.add_argument(
        "--seed", type=int, default=0, help="fixes the draws of purifiers with fresh noise (default: 0)"
    )
    parser.add_argument("--convert", action="store_true", help="turn grey into colour, or colour into grey, if need be")
    return parser


def _as_purifier(args: Sequence[str]) -> list[str]:
    """The arguments with `--config FILE` as the parser knows it; an experiment's file is refused by name."""
    flat = [piece for arg in args for piece in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    for option, value in pairwise(flat):
        if option == "--config":
            if not Path(value).is_file():
                raise FileNotFoundError(f"there is no file {value}; give the file of a purifier, {EXAMPLE}")
            content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            if not isinstance(content, dict) or "class_path" not in content:
                raise ValueError(f"{value} is not the file of a purifier (class_path and init_args), {EXAMPLE}")
    return ["--purifier" if piece == "--config" else piece for piece in flat]
