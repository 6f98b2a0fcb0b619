"""What a weight file holds, in words; and the same tensors in a file of one safe layout."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lit_pursamere.store.provenance import package_versions
from lit_pursamere.weights.choice import clean_names
from lit_pursamere.weights.files import printable
from lit_pursamere.weights.loading import WeightFile
from lit_pursamere.weights.saving import write_tensors

__all__ = ["described", "write_safetensors"]


def described(file: WeightFile) -> dict[str, str]:
    """Its properties, and what it says about itself, by name."""
    rows = {
        "file": str(file.path),
        "size": f"{file.path.stat().st_size:,} bytes",
        "sha256": file.sha256,
        "layout": file.layout,
        "architecture": file.architecture,
        "weights": file.weights,
        "parameters": f"{file.parameters:,}",
        "tensors": str(len(file.tensors)),
        "dtype": ", ".join(file.dtypes),
    }
    return rows | {f"  {printable(name)}": printable(value, 1000) for name, value in sorted(file.metadata.items())}


def write_safetensors(file: WeightFile, output: Path, dtype: str | None = None) -> tuple[int, str]:
    """Write the tensors of a weight file, their names without prefixes, and where they come from.

    Args:
        file: What was read.
        output: File to write.
        dtype: Type of the floating-point numbers (None: as they are).

    Returns:
        The number of tensors and the file's SHA-256.

    Raises:
        ValueError: If a number is too large for the type.
    """
    tensors = _cast(clean_names(file.tensors), dtype)
    return len(tensors), write_tensors(tensors, output, _card(file))


def _cast(tensors: dict[str, Tensor], dtype: str | None) -> dict[str, Tensor]:
    if dtype is None:
        return tensors
    cast = {n: t.to(getattr(torch, dtype)) if t.is_floating_point() else t for n, t in tensors.items()}
    beyond = [n for n, t in cast.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if beyond:
        raise ValueError(f"{printable(beyond[0])} holds numbers too large for {dtype}; use --dtype bfloat16 or float32")
    return cast


def _card(file: WeightFile) -> dict[str, str]:
    """What the file said about itself, and where its numbers come from: the first file of a chain of conversions."""
    origin = {
        "source": file.path.name,
        "source sha256": file.sha256,
        "layout": file.layout,
        "weights": file.weights,
    }
    if "source sha256" in file.metadata:
        origin = {"intermediate sha256": file.sha256}
    facts = {"architecture": file.architecture, "parameters": str(file.parameters)}
    return {**file.metadata, **origin, **facts, **package_versions()}
