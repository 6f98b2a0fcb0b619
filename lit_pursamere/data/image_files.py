"""Image files as they are shown: of listed formats, upright, 8 bits a channel, one frame; nothing is cut in silence.

file -> right format? one frame? 8 bits? -> upright by its EXIF orientation -> sRGB by its colour profile -> L or RGB
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageOps

__all__ = [
    "DECODE_ERRORS", "FORMATS", "Refused", "as_shown", "images_in", "in_srgb", "is_image", "is_opaque", "is_visible",
    "profile_of",
]  # fmt: skip

# Formats that are read, by the endings under which they are looked for. Pillow knows many more, and goes by a file's
# content, whatever its ending: it would start Ghostscript for what says that it is PostScript.
FORMATS = {
    ".bmp": "BMP", ".jpeg": "JPEG", ".jpg": "JPEG", ".pgm": "PPM", ".png": "PNG", ".ppm": "PPM", ".tif": "TIFF",
    ".tiff": "TIFF", ".webp": "WEBP",
}  # fmt: skip
# What Pillow raises on damaged files, depending on the format.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

# Folders that systems and archives put beside one's own: thumbnails, resource forks, what was deleted.
SYSTEM = (
    "__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
    "system volume information",
)  # fmt: skip
DEEP = re.compile(r"(?!BGR)\w+;(?:1[0-6]|32)\w*")  # how Pillow calls raw pixels of more than 8 bits a channel
SPACES = {b"GRAY": 1, b"RGB ": 3}  # colour space of a profile, from its 16th byte on -> channels


class Refused(ValueError):
    """An image that is whole, but of a kind that is not taken as it is."""


def is_visible(name: str) -> bool:
    """Whether a file or folder is one's own by its name: neither hidden nor made by a system beside it."""
    return not name.startswith(".") and name.lower() not in SYSTEM


def as_shown(file: Image.Image) -> Image.Image:
    """An opened image, turned as its EXIF orientation says.

    Raises:
        Refused: If it has several frames, or more than 8 bits a channel, of which Pillow would drop some.
    """
    # The further images of a JPEG are previews and depths, which nobody shows.
    if file.format != "MPO" and (frames := getattr(file, "n_frames", 1)) > 1:
        raise Refused(f"has {frames} frames; save the one that is meant as an image of its own")
    if file.mode[0] in "IF" or any(map(_is_deep, _raw_modes(file))):
        raise Refused(f"has more than 8 bits a channel (mode {file.mode}); make it one with 8")
    return ImageOps.exif_transpose(file)


def _raw_modes(file: Image.Image) -> Iterator[tuple[str, Any]]:
    """How Pillow calls the raw pixels of a file that it has not loaded yet, and what it says beside it."""
    for tile in getattr(file, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        yield str(arguments[0]), arguments[1] if tile[0].startswith("ppm") else 0  # the largest value of a PPM


def _is_deep(raw: tuple[str, Any]) -> bool:
    return DEEP.fullmatch(raw[0]) is not None or raw[1] > 255


def is_opaque(image: Image.Image) -> bool:
    """Whether no pixel of an image lets anything shine through."""
    if "transparency" not in image.info and not {"A", "a"} & set(image.getbands()):
        return True
    return np.asarray(image.convert("RGBA"))[..., 3].min() == 255


def profile_of(image: Image.Image, channels: int) -> bytes | None:
    """The colour profile of an image of so many channels; None if it has none that fits."""
    profile = image.info.get("icc_profile")
    return profile if profile and SPACES.get(profile[16:20]) == channels else None


def in_srgb(image: Image.Image, mode: str) -> Image.Image:
    """An image as "L" or "RGB" in sRGB, by way of its colour profile; one that cannot be read is taken for sRGB.

    Args:
        image: Any image of 8 bits.
        mode: "L" or "RGB".
    """
    content = image.info.get("icc_profile")
    if content:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
            if "srgb" not in ImageCms.getProfileDescription(profile).lower():
                plain = image if image.mode in ("L", "RGB", "CMYK") else image.convert("RGB")
                made = ImageCms.profileToProfile(plain, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
                image = made or image
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass
    return image.convert(mode)


def images_in(folder: Path) -> Iterator[Path]:
    """Image files right in a folder, by their endings, in no order; none if there is no such folder.

    A link to nothing is one too, so that whoever reads it says that an image is missing.
    """
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if Path(entry.name).suffix.lower() in FORMATS and is_visible(entry.name) and is_image(Path(entry.path)):
                yield Path(entry.path)


def is_image(path: Path) -> bool:
    """Whether what an image's name stands for is a file, or a link to one that is missing."""
    return path.is_file() or (path.is_symlink() and not path.exists())
