"""What a purified set holds, in words, numbers and images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lit_pursamere.data.purified import PurifiedSet
from lit_pursamere.data.resident import to_float
from lit_pursamere.data.source import Source
from lit_pursamere.progress import Progress
from lit_pursamere.threat import image_norm

__all__ = ["described", "image_pairs", "measured", "spread"]

KNOWN = ("format", "data", "split", "source", "images", "dtype", "part")  # of a manifest: told in other words


def described(made: PurifiedSet) -> dict[str, str]:
    """What the manifest says, row by row; settings within settings are indented."""
    manifest = made.manifest
    rows = {
        "set": str(made.path),
        "data": f"{manifest['data']}, {len(made)} of {manifest['source']['count']} {manifest['split']} images",
        "stored as": f"{made.dtype}, {made.shape} per image",
    }
    return rows | dict(_settings({name: value for name, value in manifest.items() if name not in KNOWN}))


def _settings(entries: dict, indent: str = "") -> Iterator[tuple[str, str]]:
    for name, value in entries.items():
        if isinstance(value, dict):
            yield f"{indent}{name}", str(value.get("class", ""))
            yield from _settings({k: v for k, v in value.items() if k != "class"}, indent + "  ")
        else:
            yield f"{indent}{name}", str(value)


def image_pairs(made: PurifiedSet, indices: Sequence[int], source: Source | None) -> tuple[Tensor, Tensor | None]:
    """Purified images (B, C, H, W) in [0, 1], and their originals where the source is given."""
    purified = to_float(torch.from_numpy(made.take(indices)))
    return purified, None if source is None else torch.stack([source[int(index)][0] for index in indices])


def measured(made: PurifiedSet, parts: Sequence[int], source: Source | None) -> dict[str, str]:
    """Range of the pixels, and how far in l2 the images were moved where the source is given, over these parts."""
    ends, distances = [], []
    with Progress("distances", "part", len(parts)) as progress:
        for number in parts:
            purified, originals = image_pairs(made, made.part(number).tolist(), source)
            ends.append(torch.stack([purified.min(), purified.max()]))
            if originals is not None:
                distances.append(image_norm(purified - originals, "l2"))
            progress.advance(1)
    low, high = torch.stack(ends).aminmax()
    rows = {"pixels": f"from {low:.4g} to {high:.4g}"}
    if distances:
        far = torch.cat(distances)
        rows["moved"] = f"by {far.mean():.4g} in l2 on average ({far.min():.4g} to {far.max():.4g})"
    return rows


def spread(made: PurifiedSet, parts: Iterable[int], count: int) -> list[int]:
    """At most `count` indices, spread evenly over these parts."""
    whole = np.concatenate([made.part(number) for number in parts])
    places = np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int)
    return whole[places].tolist()
