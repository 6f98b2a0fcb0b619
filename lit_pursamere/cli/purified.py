"""`lit-pursamere purified inspect`: what a purified set holds, what made it, whether it is whole, and how it looks.

lit-pursamere purified inspect runs/digits/purified
lit-pursamere purified inspect runs/cifar10/purified --config configs/data/cifar10.yaml --parts
"""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

from lit_pursamere.cli.parsing import aligned, read_part
from lit_pursamere.data import PurifiedSet
from lit_pursamere.data.inspection import described, image_pairs, measured, spread
from lit_pursamere.data.purified_checks import complain, examine, require, require_origin
from lit_pursamere.data.source import Source
from lit_pursamere.report.drawing import beside, figure_file, save_figure
from lit_pursamere.report.pictures import purified_grid
from lit_pursamere.store.manifest import digest_of

__all__ = ["purified"]


def inspect(
    folder: Path,
    config: Path | None = None,
    images: int = 20,
    picture: Path | None = None,
    parts: bool = False,
    trust: list[str] | None = None,
) -> None:
    """Say what a purified set holds, verify every byte, draw some of its images.

    Nothing that lies in the folder is run, whoever made it.

    Args:
        folder: Output folder of `lit-pursamere predict`.
        config: File with the `data` of the originals (default: config.yaml in the folder).
        images: How many to draw.
        picture: Where to (default: purified.png in the folder).
        parts: List the checksum of every part.
        trust: Modules of your own that the configuration may name.

    Raises:
        FileNotFoundError: If there is no set.
        ValueError: If the set is incomplete or damaged, after everything that could be said was printed; or if its
            configuration names what is not run to look at it.
    """
    if images < 1:
        raise ValueError(f"--images must be at least 1; got {images}")
    made = PurifiedSet.open(folder)
    require_origin(made)
    picture = figure_file(picture or folder / "purified.png")
    rows, (sums, found) = described(made), examine(made)
    rows["parts"] = f"{made.parts - len(made.missing())} of {made.parts} with {made.size} images each"
    rows["undamaged"] = f"{len(sums)} of these, by their checksums"
    rows |= {f"  part {number:06d}": f"sha256 {digest}" for number, digest in sums.items() if parts}
    if not found:
        rows["checksum"] = f"sha256 {digest_of(list(sums.values()))}, of all parts"
    from lit_pursamere.cli.trust import Untrusted  # with Lightning, heavy: after all that can be found without

    source = None
    try:
        source = originals(config or folder / "config.yaml", made, trust or ())
    except Untrusted:
        raise
    except (ValueError, OSError, ArgumentError) as error:
        rows["originals"] = f"not at hand: {str(error).splitlines()[0]}"
    if sums:
        rows |= measured(made, list(sums), source)
    print(aligned(rows))
    if sums:
        chosen = spread(made, sums, images)
        with beside(str(picture)):
            before, after = image_pairs(made, chosen, source)
            save_figure(purified_grid(before, chosen, after), picture, tight=False)
            print(f"wrote {picture}")
    complain(found)


def originals(config: Path, made: PurifiedSet, trusted: Sequence[str]) -> Source:
    """The source split that a set was made from, if its files are here; nothing is downloaded.

    Raises:
        ValueError: If the configuration describes other data.
        OSError: If a file is missing or damaged.
    """
    if not config.is_file():
        raise FileNotFoundError(f"there is no {config}; name a configuration with their `data` with --config")
    from lit_pursamere.cli.trust import build
    from lit_pursamere.data.base import ImageDataModule
    from lit_pursamere.data.npz import SPLITS

    settings = read_part(config, "data")
    arguments = settings.get("init_args") if isinstance(settings, dict) else {}
    arguments = arguments if isinstance(arguments, dict) else {}
    arguments |= {name: value for name, value in (("download", False), ("purified", None)) if name in arguments}
    data, split = build(ImageDataModule, settings, config, trusted), made.manifest["split"]
    if split not in SPLITS:
        raise ValueError(f"the set is of the split {split!r}; known are {' and '.join(SPLITS)}")
    source = data.load(split)
    require(made, data.name, split, source, made.indices.tolist(), (data.channels, data.image_size, data.image_size))
    return source


purified = {"inspect": inspect}
