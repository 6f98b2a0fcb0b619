"""Pack what must travel to a machine with a GPU and no network, and say what it weighs together with the repository.

    python benchmarks/gpu/pack.py --data ROOT                 # ROOT holds cifar-10-batches-py; two to five minutes
    python benchmarks/gpu/pack.py --data ROOT --state FILE    # and what train_score.py --resume goes on from

Into OUT (ignored by git) go

| train-*, val-*, test-*.webp | CIFAR-10 without loss, as CIFAR10(val_size=256, train_size=19744) splits it: images to |
|                             | train on, those held out of the training split, and the first 1,024 of the test split  |
| images.npz                  | their labels and their positions in the official splits                                |
| site/                       | packages that are missing there, in the versions that are installed here               |
| state/                      | state.safetensors and the score.safetensors beside it, if asked for                    |

Whatever is there and right is left alone, so an interrupted run goes on. The shipped checkpoints travel with the tree.
Images are read by packed.py.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from packed import INDEX, SPLITS, read_strip
from PIL import Image
from session import ROOT
from torch import Tensor

from lit_pursamere.data import CIFAR10
from lit_pursamere.store.atomic import replacing, write_whole

PER_STRIP = 500  # WebP knows at most 16,383 pixels a side
PACKAGES = (
    "jsonargparse", "typeshed-client", "docstring-parser", "foolbox", "eagerpy", "GitPython", "gitdb", "smmap",
    "pyautoattack",
)  # fmt: skip
LEFT_OUT = ("pyautoattack/examples/",)  # 44 MB of weights
STATE = ("state.safetensors", "score.safetensors")
LIMIT = 60 * 2**20  # bytes


def main(args: Sequence[str] | None = None) -> dict[str, int]:
    """Pack; returns the bytes that travel, by part.

    Raises:
        SystemExit: If they are too many.
    """
    parser = argparse.ArgumentParser(description="Pack what must travel to a machine with a GPU.")
    parser.add_argument("--data", required=True, help="folder that holds cifar-10-batches-py")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu/pack"), help="folder for the pack")
    parser.add_argument(
        "--state", type=Path, metavar="FILE", help="a state.safetensors of train_score.py to go on from"
    )
    parser.add_argument("--train", type=int, default=19744, help="images to train on")
    parser.add_argument("--val", type=int, default=256, help="images of the training split held out")
    parser.add_argument("--test", type=int, default=1024, help="images of the test split, the first ones")
    options = parser.parse_args(args)
    options.out.mkdir(parents=True, exist_ok=True)
    pack_images(options)
    pack_site(options.out / "site")
    pack_state(options.state, options.out / "state")
    weights = weigh(options.out)
    print(table(weights))
    if (total := sum(weights.values())) > LIMIT:
        sys.exit(f"{mib(total)} MiB are more than {mib(LIMIT)} may travel; the largest part is {next(iter(weights))}")
    return weights


def pack_images(options: argparse.Namespace) -> None:
    """Write the strips of all splits, and what belongs to them."""
    data = CIFAR10(options.data, val_size=options.val, train_size=options.train)
    data.setup()
    index = {}
    for split in SPLITS:
        positions = torch.tensor(data.indices(split)[: options.test] if split == "test" else data.indices(split))
        source = data.sources["test" if split == "test" else "train"]
        index[f"{split}_labels"], index[f"{split}_positions"] = source.labels[positions], positions
        write_strips(options.out, split, source.images[positions])
    with replacing(options.out / INDEX) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in index.items()})


def write_strips(folder: Path, split: str, images: Tensor) -> None:
    """Write images (N, 3, S, S) uint8 as pictures of `PER_STRIP` each, those that are not there already."""
    strips = {f"{split}-{number:03}.webp": part for number, part in enumerate(images.split(PER_STRIP))}
    for path in folder.glob(f"{split}-*.webp"):
        if path.name not in strips:
            path.unlink()
    for done, (name, part) in enumerate(strips.items(), 1):
        if not holds(folder / name, part):
            pixels = part.permute(0, 2, 3, 1).flatten(0, 1).numpy()
            with replacing(folder / name) as temporary:
                Image.fromarray(pixels).save(temporary, "WEBP", lossless=True, quality=100)
            if not holds(folder / name, part):
                raise OSError(f"{folder / name} does not hold the pixels that were written to it")
        print(
            f"\r{split}: {done} of {len(strips)} strips", end="\n" * (done == len(strips)), file=sys.stderr, flush=True
        )


def holds(path: Path, images: Tensor) -> bool:
    """Whether a strip is there and holds exactly these images."""
    try:
        return path.is_file() and torch.equal(read_strip(path), images)
    except (OSError, RuntimeError):  # damaged, or of another shape
        return False


def pack_site(site: Path) -> None:
    """Fetch the missing packages as wheels, by pip, and unpack them."""
    wanted = {name: version(name) for name in PACKAGES}
    missing = [name for name, number in wanted.items() if not complete(site, name, number)]
    with tempfile.TemporaryDirectory() as wheels:
        if missing:
            download([f"{name}=={wanted[name]}" for name in missing], Path(wheels))
        for wheel in sorted(Path(wheels).glob("*.whl")):
            unpack(wheel, site)
    importlib.invalidate_caches()  # of what `complete` looks at
    if broken := [name for name in missing if not complete(site, name, wanted[name])]:
        raise OSError(f"pip brought no whole {', '.join(broken)}; delete {site} and run the command again")


def version(name: str) -> str:
    """The version that is installed here, which is the one that the tests know."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{name} is not installed here; install the package with its extras first")


def complete(site: Path, name: str, number: str) -> bool:
    """Whether every file of a package in this version is there, as long as its wheel says."""
    found = list(importlib.metadata.distributions(name=name, path=[str(site)]))
    if [distribution.version for distribution in found] != [number]:
        return False
    files = [file for file in found[0].files or [] if not str(file).startswith(LEFT_OUT)]
    places = {file.locate(): file.size for file in files}
    whole = all(path.is_file() and size in (None, path.stat().st_size) for path, size in places.items())
    return whole and bool(files)


def download(requirements: list[str], folder: Path) -> None:
    """Fetch wheels for Python 3.12 from the index that pip is set to."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--only-binary=:all:", "--python-version=3.12", f"--dest={folder}", *requirements],
        check=True,
    )  # fmt: skip


def unpack(wheel: Path, site: Path) -> None:
    """Lay a pure Python wheel out for PYTHONPATH, in place of other versions of the package.

    Raises:
        ValueError: If it holds compiled code, which depends on the machine.
    """
    if not wheel.name.endswith("-none-any.whl"):
        raise ValueError(f"{wheel.name} is not pure Python")
    for old in site.glob(f"{wheel.name.split('-')[0]}-*.dist-info"):
        shutil.rmtree(old)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site, [name for name in archive.namelist() if not name.startswith(LEFT_OUT)])


def pack_state(state: Path | None, folder: Path) -> None:
    """Copy the two files that a training goes on from; without a state, none is left there."""
    if state is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    folder.mkdir(exist_ok=True)
    for name in STATE:
        source = state if name == STATE[0] else state.with_name(name)
        if not (folder / name).is_file() or not filecmp.cmp(source, folder / name, shallow=False):
            write_whole(folder / name, source.read_bytes())


def weigh(folder: Path) -> dict[str, int]:
    """Bytes of all that travels, the heaviest part first: the files that git does not ignore, and the pack."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    folder = folder.resolve()
    tree = {ROOT / name for name in listed.split("\0") if name}
    tree = {path for path in tree if path.is_file() and not path.is_relative_to(folder)}
    parts: Counter[str] = Counter()
    for path in tree:
        parts[path.relative_to(ROOT).parts[0] + "/" * (path.parent != ROOT)] += path.stat().st_size
    for path in folder.rglob("*"):
        if path.is_file():
            inside = path.relative_to(folder).parts
            name = inside[0] + "/" if len(inside) > 1 else inside[0].split("-")[0]
            parts[f"pack: {name}"] += path.stat().st_size
    return dict(parts.most_common())


def table(weights: dict[str, int]) -> str:
    lines = ["| part | MiB |", "| --- | --- |", *(f"| {name} | {mib(size)} |" for name, size in weights.items())]
    return "\n".join([*lines, f"| all, of {mib(LIMIT)} | {mib(sum(weights.values()))} |"])


def mib(size: int) -> str:
    return f"{size / 2**20:.2f}"


if __name__ == "__main__":
    main()
