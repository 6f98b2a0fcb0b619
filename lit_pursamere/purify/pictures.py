"""Purify pictures of any size, or an array of images, outside of any data set; a second run continues the first.

    purify_images("photos", "photos-purified", purify)        # purify = PurSAMERE(...), or any other purifier

    folder: pictures of one size at a time, in batches by name -> the same names below the output, as PNG
    array:  batch by batch into a `PurifiedSet` -> an array of the same layout and type

A batch in which anything is missing is purified whole, so that what comes out does not depend on interruptions.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import torch

from lit_pursamere.data.pictures import Picture, decode, encode, find_pictures, profile
from lit_pursamere.data.resident import to_float
from lit_pursamere.progress import Progress
from lit_pursamere.purifiers import Purifier
from lit_pursamere.purify.arrays import purify_arrays
from lit_pursamere.purify.batch import Shape, accepts, purify_batch
from lit_pursamere.store.manifest import settings_of
from lit_pursamere.store.outputs import Outputs
from lit_pursamere.threat import image_norm
from lit_pursamere.weights import state_digest

__all__ = ["purify_images"]

Found = dict[Shape, list[tuple[Picture, str]]]  # pictures with their checksums, by (C, H, W)


def purify_images(
    images: str | Path,
    output: str | Path,
    purifier: Purifier,
    batch_size: int = 64,
    seed: int = 0,
    convert: bool = False,
    hidden: bool = True,
) -> int:
    """Purify every picture of a folder, or every image of a .npy or .npz file, into another folder.

    Pictures that cannot be purified (damaged, of a kind or size that the network does not take) are left out, and named
    when all others are done.

    Args:
        images: Folder with PNG and JPEG files, at any depth; or a .npy or .npz file with images (N, H, W), (N, H, W, C)
            or (N, C, H, W), uint8 or floats in [0, 1]. Other arrays of a .npz are copied, and so are tables (N, H, W)
            among several arrays unless their name says images.
        output: Folder of the result, empty or begun with the same settings.
        purifier: Any purifier; it computes where its weights are.
        batch_size: Images per batch. Another one changes no picture by more than rounding can.
        seed: Fixes the draws of purifiers with fresh noise.
        convert: Turn grey pictures into colour ones, or colour into grey, as the network needs, and drop transparency.
        hidden: Whether to report no progress.

    Returns:
        How many images there are in the output.

    Raises:
        ValueError: If no image can be purified, or (in the end) if some could not be; or if the output holds something
            else.
        OSError: If files cannot be read or written, or another run writes to the output.
    """
    source, folder = Path(images).resolve(), Path(output)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}")
    if seed < 0:
        raise ValueError(f"seed must be a whole number from 0 up; got {seed}")
    if not source.exists():
        raise FileNotFoundError(f"there are no images at {images}; give a folder, a .npy or a .npz file")
    if source.is_dir() and (source == folder.resolve() or source in folder.resolve().parents):
        raise ValueError(f"{output} lies within {images}, so its pictures would be purified again; choose another")
    manifest = {
        "format": "purified pictures",
        "source": str(source),
        "purifier": settings_of(purifier),
        "weights": state_digest(purifier),
        "seed": seed,
        "convert": convert,
    }
    if not source.is_dir():
        return purify_arrays(source, folder, purifier, manifest, batch_size, seed, hidden)
    found, refused = _examine(find_pictures(source), purifier, convert, hidden)
    if not found:
        raise ValueError(_told(f"none of the {len(refused)} pictures in {images} can be purified", refused))
    with Outputs(folder, manifest) as outputs:
        _purify(found, outputs, purifier, batch_size, seed, hidden)
    done = sum(map(len, found.values()))
    if refused:
        raise ValueError(_told(f"{done} pictures are purified in {output}; these {len(refused)} are not", refused))
    return done


def _examine(pictures: Sequence[Picture], purifier: Purifier, convert: bool, hidden: bool) -> tuple[Found, list[str]]:
    """Sort pictures by shape, those that the purifier takes; and say of the others why it does not."""
    found: Found = defaultdict(list)
    takes, refused = cache(partial(accepts, purifier)), []
    with Progress("look at pictures", "picture", len(pictures), hidden) as progress:
        for picture in pictures:
            try:
                content = picture.path.read_bytes()
                found[_shape(content, convert, takes)].append((picture, hashlib.sha256(content).hexdigest()))
            except (ValueError, OSError) as error:
                refused.append(f"{picture.path} {error}")
            progress.advance(1)
    return found, refused


def _shape(content: bytes, convert: bool, takes: Callable[[Shape], bool]) -> Shape:
    """Shape (C, H, W) in which the purifier takes a picture.

    Raises:
        ValueError: If it takes it in none.
    """
    channels, height, width = decode(content, 3 if convert else None).shape
    other = (4 - channels, height, width)
    if takes((channels, height, width)):
        return channels, height, width
    kinds = {1: "grey", 3: "colour"}
    if not takes(other):
        raise ValueError(f"has {width} x {height} pixels, which the purifier's network does not take")
    if not convert:
        raise ValueError(
            f"is a {kinds[channels]} picture, and the purifier takes {kinds[other[0]]} ones; --convert makes it one"
        )
    return other


def _purify(found: Found, outputs: Outputs, purifier: Purifier, batch_size: int, seed: int, hidden: bool) -> None:
    """Purify the pictures of every shape, batch by batch, unless they are there."""
    batches = [
        (shape, found[shape][first : first + batch_size])
        for shape in sorted(found)
        for first in range(0, len(found[shape]), batch_size)
    ]
    with Progress("purify", "picture", sum(map(len, found.values())), hidden) as progress:
        for number, (shape, batch) in enumerate(batches):
            todo = [place for place, (picture, digest) in enumerate(batch) if not outputs.done(picture.name, digest)]
            progress.advance(len(batch) - len(todo), skipped=True)
            if not todo:
                continue
            contents = [picture.path.read_bytes() for picture, _ in batch]
            x = to_float(torch.stack([decode(content, shape[0]) for content in contents]))
            purified = purify_batch(purifier, x, seed, number)
            moved = image_norm(purified - x, "l2").tolist()
            for place in todo:
                picture, digest = batch[place]
                pixels = (purified[place] * 255).round().to(torch.uint8)
                made = encode(pixels, profile(contents[place], shape[0]))
                outputs.write(picture.name, made, digest, moved=moved[place])
            progress.advance(len(todo))


def _told(summary: str, refused: Sequence[str]) -> str:
    return f"{summary}:\n" + ";\n".join([*refused, "mend or remove them, and run the same command again"])
