"""`lit-pursamere purified inspect`: what a purified set holds, what made it, whether it is whole, and how it looks.

lit-pursamere purified inspect runs/digits/purified
lit-pursamere purified inspect runs/cifar10/purified --data configs/data/cifar10.yaml --parts
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.utils.data import Dataset

from lit_pursamere.data import ImageDataModule, PurifiedSet
from lit_pursamere.data.purified_checks import complain, examine, require
from lit_pursamere.data.resident import to_float
from lit_pursamere.progress import Progress
from lit_pursamere.report.pictures import purified_grid
from lit_pursamere.store.manifest import digest_of
from lit_pursamere.threat import image_norm

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["run"]


def run(args: Sequence[str]) -> None:
    """Run `inspect`.

    Args:
        args: The command line behind `lit-pursamere purified`.

    Raises:
        FileNotFoundError: If there is no set.
        ValueError: If the set is incomplete or damaged, after everything that could be said was printed.
    """
    parsed = _parser().parse_args(args)
    if parsed.images < 1:
        raise ValueError(f"--images must be at least 1; got {parsed.images}")
    made = PurifiedSet.open(parsed.folder)
    rows, (sums, found) = _told(made), examine(made)
    rows["parts"] = f"{made.parts - len(made.missing())} of {made.parts} with {made.size} images each"
    rows["undamaged"] = f"{len(sums)} of these, by their checksums"
    rows |= {f"  part {number:06d}": f"sha256 {digest}" for number, digest in sums.items() if parsed.parts}
    if not found:
        rows["checksum"] = f"sha256 {digest_of(list(sums.values()))}, of all parts"
    source = None
    try:
        source = _originals(parsed.config or parsed.folder / "config.yaml", made)
    except (ValueError, OSError, argparse.ArgumentError) as error:
        rows["originals"] = f"not at hand: {str(error).splitlines()[0]}"
    if sums:
        rows |= _measured(made, sums, source)
    print(_table(rows))
    if sums:
        picture = parsed.picture or parsed.folder / "purified.png"
        _draw(made, sums, source, parsed.images).savefig(picture)
        print(f"wrote {picture}")
    complain(found)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lit-pursamere purified", description="Look into purified sets.")
    inspect = parser.add_subparsers(dest="verb", required=True).add_parser(
        "inspect", help="say what a set holds, verify every byte, draw some of its images"
    )
    inspect.add_argument("folder", type=Path, metavar="DIR", help="output folder of `lit-pursamere predict`")
    inspect.add_argument("--config", type=Path, help="file with the `data` of the originals (default: DIR/config.yaml)")
    inspect.add_argument("--images", type=int, default=20, help="how many to draw (default: 20)")
    inspect.add_argument("--picture", type=Path, metavar="PNG", help="where to (default: DIR/purified.png)")
    inspect.add_argument("--parts", action="store_true", help="list the checksum of every part")
    return parser


def _told(made: PurifiedSet) -> dict[str, str]:
    """What the manifest says, row by row; settings within settings are indented."""
    told = made.manifest
    rows = {
        "set": str(made.path),
        "data": f"{told.get('data')}, {len(made)} of {told.get('source', {}).get('count')} {told.get('split')} images",
        "stored as": f"{made.dtype}, {made.shape} per image",
    }

    def settings(entries: dict, indent: str) -> Iterator[tuple[str, str]]:
        for name, value in entries.items():
            if isinstance(value, dict):
                yield f"{indent}{name}", str(value.get("class", ""))
                yield from settings({k: v for k, v in value.items() if k != "class"}, indent + "  ")
            else:
                yield f"{indent}{name}", str(value)

    known = ("format", "data", "split", "source", "images", "dtype", "part")
    return rows | dict(settings({name: value for name, value in told.items() if name not in known}, ""))


def _originals(config: Path, made: PurifiedSet) -> Dataset:
    """The source split that a set was made from, if its files are here; nothing is downloaded.

    Raises:
        ValueError: If the configuration describes other data.
        OSError: If a file is missing or damaged.
    """
    from jsonargparse import ArgumentParser
    from jsonargparse.typing import Path_fr

    if not config.is_file():
        raise FileNotFoundError(f"there is no {config}; name a configuration with their `data` with --config")
    settings = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("data")
    if settings is None:
        raise ValueError(f"{config} has no `data`")
    arguments = settings.get("init_args", {}) if isinstance(settings, dict) else {}
    arguments |= {name: value for name, value in (("download", False), ("purified", None)) if name in arguments}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    with Path_fr(str(config)).relative_path_context():  # a configuration names others relative to itself
        data = parser.instantiate(parser.parse_object({"data": settings})).data
    split = made.manifest["split"]
    source = data.load(split)
    shape = (data.channels, data.image_size, data.image_size)
    require(made, data.name, split, source, made.indices.tolist(), shape)
    return source


def _images(made: PurifiedSet, indices: Sequence[int], source: Dataset | None) -> tuple[Tensor, Tensor | None]:
    """Purified images (B, C, H, W) in [0, 1], and their originals."""
    purified = to_float(torch.from_numpy(made.take(indices)))
    return purified, None if source is None else torch.stack([source[int(index)][0] for index in indices])


def _measured(made: PurifiedSet, sums: dict[int, str], source: Dataset | None) -> dict[str, str]:
    """Range of the pixels, and how far the images were moved, over all undamaged parts."""
    ends, distances = [], []
    with Progress("distances", "part", len(sums)) as progress:
        for number in sums:
            purified, originals = _images(made, made.part(number).tolist(), source)
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


def _draw(made: PurifiedSet, sums: dict[int, str], source: Dataset | None, count: int) -> Figure:
    """Images spread evenly over the undamaged parts."""
    whole = np.concatenate([made.part(number) for number in sums])
    places = np.linspace(0, len(whole) - 1, min(count, len(whole))).round().astype(int)
    chosen = whole[places].tolist()
    purified, originals = _images(made, chosen, source)
    return purified_grid(purified, chosen, originals)


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
