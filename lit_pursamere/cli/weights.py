"""`lit-pursamere weights`: look into weight files, and turn those of others into safetensors.

lit-pursamere weights inspect checkpoint_300000.pth
lit-pursamere weights convert edm-cifar10-32x32-uncond-vp.pkl edm.safetensors
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from lit_pursamere.cli.parsing import aligned
from lit_pursamere.names import shown
from lit_pursamere.weights import inspect_weights
from lit_pursamere.weights.conversion import described, write_safetensors
from lit_pursamere.weights.saving import safetensors_file

__all__ = ["convert", "inspect", "weights"]


def inspect(file: Path, weights: str = "ema") -> None:
    """Say what a weight file holds.

    Args:
        file: Weight file of any layout, or a diffusers folder.
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
        file: Weight file of any layout, or a diffusers folder.
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
    print(f"wrote {output} ({count} tensors, {shown(found.layout)}, {found.architecture})\nsha256 {digest}")


weights = {"inspect": inspect, "convert": convert}
