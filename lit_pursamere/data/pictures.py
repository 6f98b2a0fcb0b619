"""Pictures in a folder, whatever their names and sizes: finding, exact reading and lossless writing.

Only 8-bit grey and RGB pictures are what a purifier sees. Others would have to be changed first, and that is refused
unless it was asked for: a purified picture should differ from its original by what the purifier did and nothing else.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lit_pursamere.data.image_files import (
    DECODE_ERRORS,
    FORMATS,
    Refused,
    as_shown,
    in_srgb,
    is_image,
    is_visible,
    profile_of,
)

__all__ = ["Picture", "decode", "encode", "find_pictures", "profile"]

ENDINGS = (".png", ".jpg", ".jpeg")
MODES = {1: "L", 3: "RGB"}
CHANNELS = {"1": 1, "L": 1, "RGB": 3, "P": 3}


@dataclass(frozen=True)
class Picture:
    """A picture file that was found.

    Args:
        path: Where it is.
        name: What its purified copy is called, relative to the output folder, `a/b.png`.
    """

    path: Path
    name: str


def find_pictures(folder: Path) -> list[Picture]:
    """PNG and JPEG files in a folder and the folders in it, by name; hidden ones and those of systems are left out.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If the purified copies of two would have one name.
    """
    found = [
        Picture(path, path.relative_to(folder).with_suffix(".png").as_posix())
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in ENDINGS and all(map(is_visible, path.relative_to(folder).parts)) and is_image(path)
    ]
    if not found:
        raise FileNotFoundError(f"no pictures in {folder} (known: {', '.join(ENDINGS)})")
    twice = [name for name, count in Counter(picture.name for picture in found).items() if count > 1]
    if twice:
        same = " and ".join(str(picture.path) for picture in found if picture.name == twice[0])
        raise ValueError(f"{same} would both become {twice[0]} ({len(twice)} such names in all); rename one of them")
    return found


def decode(content: bytes, channels: int | None = None) -> Tensor:
    """Pixels of a picture as it is shown, turned as its EXIF orientation says; its colours as they are, see `profile`.

    Args:
        content: Its file.
        channels: 1 or 3: turn it into a grey or colour one, dropping transparency. None: as it is.

    Returns:
        (C, H, W) uint8.

    Raises:
        ValueError: If it is damaged, or would have to be changed to be grey or RGB with 8 bits.
    """
    try:
        with _opened(content) as file:
            image = as_shown(file)
            wanted = _channels(image, channels)
            own = CHANNELS.get(image.mode) == wanted
            pixels = np.array(image.convert(MODES[wanted]) if own else in_srgb(image, MODES[wanted]))
    except Refused:
        raise
    except UnidentifiedImageError:
        raise ValueError("is no PNG or JPEG picture, or its beginning is damaged") from None
    except DECODE_ERRORS as error:
        raise ValueError(f"is damaged: {error}") from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1).contiguous()


def profile(content: bytes, channels: int) -> bytes | None:
    """The colour profile that belongs to the pixels that `decode` gives in so many channels; None: they are sRGB."""
    with _opened(content) as file:
        return profile_of(file, channels) if CHANNELS.get(file.mode) == channels else None


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=[FORMATS[ending] for ending in ENDINGS])


def _channels(image: Image.Image, wanted: int | None) -> int:
    if wanted is not None:
        return wanted
    if "transparency" in image.info or {"A", "a"} & set(image.getbands()):
        raise Refused("is transparent in places; --convert drops the transparency")
    if image.mode not in CHANNELS:
        raise Refused(f"is neither grey nor RGB but {image.mode}; --convert turns it into what the purifier takes")
    return CHANNELS[image.mode]


def encode(pixels: Tensor, profile: bytes | None = None) -> bytes:
    """A PNG file with these pixels (C, H, W), uint8, and a colour profile; the same bytes for the same pixels."""
    array = pixels.permute(1, 2, 0).contiguous().numpy()
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[2] == 1 else array).save(file, "PNG", icc_profile=profile)
    return file.getvalue()
