"""`lit-pursamere weights`: look into weight files, and turn those of others into safetensors.

lit-pursamere weights inspect checkpoint_300000.pth
lit-pursamere weights convert edm-cifar10-32x32-uncond-vp.pkl edm.safetensors
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lit_pursamere.store.provenance import package_versions
from lit_pursamere.weights.files import printable
from lit_pursamere.weights.layouts import clean_names
from lit_pursamere.weights.loading import WeightFile, inspect_weights
from lit_pursamere.weights.saving import write_tensors

__all__ = ["run"]


def run(args: Sequence[str]) -> None:
    """Run `inspect` or `convert`.

    Args:
        args: The command line behind `lit-pursamere weights`.

    Raises:
        FileNotFoundError: If there is no such file.
        FileExistsError: If the output exists and `--force` was not given.
        ValueError: If the file cannot be read, or not written in the wanted type.
    """
    parsed = _parser().parse_args(args)
    (_inspect if parsed.verb == "inspect" else _convert)(parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("lit-pursamere weights", description="Look into weight files, or convert them.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    inspect = verbs.add_parser("inspect", help="say what a weight file holds")
    convert = verbs.add_parser("convert", help="write a weight file as safetensors")
    for verb in (inspect, convert):
        verb.add_argument("file", type=Path, help="weight file of any layout, or a diffusers folder")
        verb.add_argument("--weights", choices=("ema", "raw"), default="ema", help="which set, where there are two")
    convert.add_argument("output", type=Path, help="file to write, OUT.safetensors")
    convert.add_argument(
        "--dtype", choices=("float32", "float16", "bfloat16"), help="type of the numbers (as they are)"
    )
    convert.add_argument("--force", action="store_true", help="overwrite an existing file")
    convert.add_argument(
        "--execute-code-in-file",
        action="store_true",
        help="DANGEROUS: unpickle with full power, which runs any program that the file holds",
    )
    return parser


def _inspect(parsed: argparse.Namespace) -> None:
    found = inspect_weights(parsed.file, parsed.weights)
    rows = {
        "file": str(found.path),
        "size": f"{found.path.stat().st_size:,} bytes",
        "sha256": found.sha256,
        "layout": found.layout,
        "architecture": found.architecture,
        "weights": found.weights,
        "parameters": f"{found.parameters:,}",
        "tensors": str(len(found.tensors)),
        "dtype": ", ".join(found.dtypes),
    }
    rows |= {f"  {printable(name)}": printable(value, 1000) for name, value in sorted(found.metadata.items())}
    width = max(map(len, rows))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))


def _convert(parsed: argparse.Namespace) -> None:
    if parsed.output.suffix != ".safetensors":
        raise ValueError(f"the output must be named OUT.safetensors; got {parsed.output}")
    if parsed.output.exists() and not parsed.force:
        raise FileExistsError(f"{parsed.output} exists already; give another name, or --force to overwrite it")
    if parsed.execute_code_in_file:
        print(f"warning: --execute-code-in-file runs whatever {parsed.file} says, with your rights", file=sys.stderr)
    found = inspect_weights(parsed.file, parsed.weights, execute=parsed.execute_code_in_file)
    tensors = _cast(clean_names(found.tensors), parsed.dtype)
    digest = write_tensors(tensors, parsed.output, _card(found))
    print(f"wrote {parsed.output} ({len(tensors)} tensors, {found.layout}, {found.architecture})\nsha256 {digest}")


def _cast(tensors: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    if dtype is None:
        return tensors
    cast = {n: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for n, t in tensors.items()}
    beyond = [n for n, t in cast.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if beyond:
        raise ValueError(f"{printable(beyond[0])} holds numbers too large for {dtype}; use --dtype bfloat16 or float32")
    return cast


def _card(found: WeightFile) -> dict[str, str]:
    """What the file said about itself, and where its numbers come from: the first file of a chain of conversions."""
    origin = {
        "source": found.path.name,
        "source sha256": found.sha256,
        "layout": found.layout,
        "weights": found.weights,
    }
    if "source sha256" in found.metadata:
        origin = {"intermediate sha256": found.sha256}
    facts = {"architecture": found.architecture, "parameters": str(found.parameters)}
    return {**found.metadata, **origin, **facts, **package_versions()}
