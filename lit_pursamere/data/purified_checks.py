"""Is a purified set whole, undamaged, and the one that is wanted? Each way in which it is not has its own message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lit_pursamere.data.purified import PurifiedSet
from lit_pursamere.data.source import Source
from lit_pursamere.store.manifest import require_stated

__all__ = ["complain", "examine", "is_held_out", "probe", "require", "require_for_training", "require_origin", "verify"]

PROBES, SAME = 16, 2e-3  # decoders of JPEG differ by less than that in an image's mean
ORIGIN = ("data", "split", "source.count", "source.means", "purifier", "weights")
AGAIN = "run the same `lit-pursamere predict` command again, it continues where it stopped"


def examine(purified: PurifiedSet, indices: Sequence[int] | None = None) -> tuple[dict[int, str], list[str]]:
    """Read every byte of the parts that hold these indices (None: all).

    Returns:
        The checksum of every part that is whole, by its number; and a message per damage, none if all are.
    """
    held = purified.indices if indices is None else np.intersect1d(purified.indices, indices)
    wanted = set((np.searchsorted(purified.indices, held) // purified.size).tolist())
    missing = sorted(wanted.intersection(purified.missing()))
    sums: dict[int, str] = {}
    found = []
    if missing:
        images = sum(len(purified.part(number)) for number in missing)
        found.append(
            f"{purified.path} lacks {images} of {len(purified)} images (parts {_some(missing)} of {purified.parts}); "
            f"{AGAIN}"
        )
    for number in sorted(wanted.difference(missing)):
        try:
            sums[number] = purified.checksum(number)
        except (ValueError, OSError) as error:
            found.append(str(error))
    return sums, found


def verify(purified: PurifiedSet, indices: Sequence[int] | None = None) -> None:
    """Raise ValueError unless the parts that hold these indices (None: all) are there and undamaged."""
    complain(examine(purified, indices)[1])


def require_origin(purified: PurifiedSet) -> None:
    """Raise ValueError unless a set states what it was made from, and what made it."""
    require_stated(purified.path, purified.manifest, *ORIGIN)


def is_held_out(purified: PurifiedSet, purified_by: Mapping[str, object] | None) -> bool:
    """Whether a set is of the images that choices are made by, and nobody asked for these."""
    asked = (purified_by or {}).get("evaluate")
    return purified.manifest.get("evaluate") == "val" and asked != "val"


def require_for_training(purified: PurifiedSet, purified_by: Mapping[str, object] | None) -> None:
    """Raise ValueError if a set is of images that were held out from training, unless `purified_by` says so."""
    if is_held_out(purified, purified_by):
        raise ValueError(
            f"{purified.path} was made with `data.evaluate val`, of images that are held out from training; purify "
            "with `--data.evaluate train`, or ask for these with `--data.purified_by '{evaluate: val}'`"
        )


def complain(found: Sequence[str]) -> None:
    """Raise ValueError with the first of some damages, if there are any."""
    if found:
        raise ValueError(found[0] + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""))


def probe(source: Source, indices: Sequence[int]) -> list[float]:
    """Means of a few originals, spread evenly: whether the images still have the same order can be seen from them."""
    places = np.linspace(0, len(indices) - 1, min(PROBES, len(indices))).round().astype(int)
    return [round(float(source[int(indices[place])][0].to(torch.float64).mean()), 4) for place in places]


def require(
    purified: PurifiedSet,
    data: str,
    split: str,
    source: Source,
    indices: Sequence[int],
    shape: Sequence[int],
    purified_by: Mapping[str, object] | None = None,
) -> None:
    """Raise ValueError unless a set is of these images, by what its manifest says.

    Args:
        purified: The set.
        data: Name of the data set.
        split: `train` or `test`, the source split.
        source: The source split itself.
        indices: Those of its images that are needed.
        shape: (C, H, W) of its images.
        purified_by: Settings that the purifier must have had, by name; None: any.
    """
    require_origin(purified)
    told, path = purified.manifest, purified.path
    for name, wanted in (("data", data), ("split", split)):
        if told.get(name) != wanted:
            raise ValueError(
                f"{path} was made from the {name} {told.get(name)!r}, but this is {wanted!r}; purify {wanted!r}"
            )
    if purified.shape != tuple(shape):
        raise ValueError(f"{path} holds images {purified.shape}, but those of {data} are {tuple(shape)}; purify these")
    lacking = np.setdiff1d(indices, purified.indices)
    if told["source"]["count"] != len(source) or len(lacking):
        raise ValueError(
            f"{path} was made for {len(purified)} of {told['source']['count']} {split} images of {data}; "
            f"{len(indices)} of {len(source)} are asked for, and {len(lacking)} of these are not in it; purify these"
        )
    now = probe(source, purified.indices.tolist())
    if not np.allclose(now, told["source"]["means"], rtol=0, atol=SAME):
        raise ValueError(
            f"{path} was made from other images, or in another order, than those of {data} now; purify these"
        )
    _require_purifier(purified, purified_by or {})


def _require_purifier(purified: PurifiedSet, wanted: Mapping[str, object]) -> None:
    told = purified.manifest
    there = {**told["purifier"], "weights": told["weights"], "evaluate": told.get("evaluate")}
    for name, value in wanted.items():
        if name not in there:
            raise ValueError(f"purified_by has no setting {name!r} to ask for; {purified.path} has {', '.join(there)}")
        same = str(there[name]).startswith(str(value)) if name == "weights" else there[name] == value
        if not same:
            raise ValueError(
                f"{purified.path} was made with {name} {there[name]!r}, but `purified_by` asks for {value!r}; purify "
                "with that, or ask for what is there"
            )


def _some(numbers: Sequence[int], shown: int = 5) -> str:
    return ", ".join(map(str, numbers[:shown])) + (" ..." if len(numbers) > shown else "")
