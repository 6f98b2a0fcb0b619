"""`lit-pursamere weights`: get weights by name, look into weight files, and turn those of others into safetensors.

lit-pursamere weights list
lit-pursamere weights get cifar10/edm
lit-pursamere weights inspect checkpoint_300000.pth
lit-pursamere weights convert edm-cifar10-32x32-uncond-vp.pkl edm.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from lit_pursamere.cli.parsing import aligned
from lit_pursamere.ending import command, ending
from lit_pursamere.names import shown
from lit_pursamere.weights import inspect_weights
from lit_pursamere.weights.cache import HERE, cache_folder, state
from lit_pursamere.weights.conversion import described, write_safetensors
from lit_pursamere.weights.getting import get as get_files
from lit_pursamere.weights.registry import Entry, entries, find
from lit_pursamere.weights.saving import safetensors_file

__all__ = ["convert", "get", "inspect", "list", "weights"]


def list(here: bool = False) -> None:
    """List the weights that have a name, and whether they are on this machine.

    Args:
        here: Only those that are.
    """
    rows = []
    for kind in ("score model", "classifier"):
        rows.append((f"{kind.upper()}S", "STATE", "SIZE", "LICENCE", "WHAT"))
        those = [one for one in entries().values() if one.kind == kind and (not here or state(one) in HERE)]
        rows += [(one.name, state(one), size_of(one), one.licence or "?", one.what) for one in those]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\ncache: {shown(cache_folder())}\n`lit-pursamere weights get NAME` downloads, or says what to do by hand")


def get(name: str, file: Path | None = None) -> None:
    """Download weights by their name, or put a file that was fetched by hand in their place.

    They are kept in the cache of the system, or in the folder that the environment variable LIT_PURSAMERE_CACHE names.
    A download that was cut short goes on when the command is given again.

    Args:
        name: As `weights list` shows it.
        file: File to copy instead of a download; a folder where the weights are made of several files.

    Raises:
        FileNotFoundError: If the weights must be fetched by hand; the message says how.
        OSError: If they cannot be downloaded, read or written.
        ValueError: If there are none of that name, or the file is not the right one.
    """
    entry = find(name)
    path = get_files(entry, file, say=lambda line: print(shown(line)))
    found = inspect_weights(path)
    print(aligned({**about(entry), "file": str(path), "architecture": found.architecture, "sha256": found.sha256}))
    option = f"--model.{entry.kind.replace(' ', '_')} {name}"
    print(ending(f"{name} is in {path}", size_of(entry), f"{option} in any `lit-pursamere test`"))


def inspect(file: Path, weights: str = "ema") -> None:
    """Say what a weight file holds.

    Args:
        file: Weight file of any layout, a diffusers folder, or a name that `weights list` shows.
        weights: ema, raw, or the name of one of several networks in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    print(aligned(described(inspect_weights(file, weights))))


def convert(
    file: Path,
    output: Path,
    weights: str = "ema",
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    force: bool = False,
    execute_code_in_file: bool = False,
) -> None:
    """Write a weight file as safetensors.

    Args:
        file: Weight file of any layout, a diffusers folder, or a name that `weights list` shows.
        output: File to write, OUT.safetensors.
        weights: ema, raw, or the name of one of several networks in the file.
        dtype: Type of the numbers (default: as they are).
        force: Overwrite an existing file.
        execute_code_in_file: DANGEROUS: unpickle with full power, which runs any program that the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        FileExistsError: If the output exists and `--force` was not given.
        ValueError: If the file cannot be read, or not written in the wanted type.
    """
    if safetensors_file(output).exists() and not force:
        raise FileExistsError(f"{output} exists already; give another name, or --force to overwrite it")
    if execute_code_in_file:
        print(f"warning: --execute-code-in-file runs whatever {file} says, with your rights", file=sys.stderr)
    found = inspect_weights(file, weights, execute=execute_code_in_file)
    count, digest = write_safetensors(found, output, dtype)
    made = f"wrote {output} ({count} tensors, {found.layout}, {found.architecture})"
    print(ending(made, f"sha256 {digest}", command("weights", "inspect", output)))


def about(entry: Entry) -> dict[str, str]:
    """What the registry says of an entry, by name."""
    told = {entry.kind: entry.name, "what": entry.what, "licence": entry.licence, "published": entry.published}
    pages = {f"  {fact}": page for fact, page in (entry.sources or {}).items()}
    return {name: text for name, text in told.items() if text} | ({"read on": "", **pages} if pages else {})


def size_of(entry: Entry) -> str:
    return "?" if entry.size is None else f"{entry.size / 1e6:.1f} MB"


weights = {"list": list, "get": get, "inspect": inspect, "convert": convert}
