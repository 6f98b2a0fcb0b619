"""Writes weight files: safetensors with a model card inside, the same bytes for the same weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.provenance import command, package_versions

__all__ = [
    "model_card",
    "safetensors_file",
    "save_weights",
    "sha256",
    "state_digest",
    "tensors_digest",
    "write_tensors",
]


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_card(**facts: object) -> dict[str, str]:
    """Gather what should stand in an exported weight file, for `save_weights`.

    Args:
        **facts: What is known about the weights: data set, schedule, steps, EMA decay, loss ... None is left out.

    Returns:
        The facts, package versions and the command line, all as text. No date and no place: the same run again gives
        the same file.
    """
    told = {name: str(value) for name, value in facts.items() if value is not None}
    return {"command": command(), **package_versions(), **told}


def save_weights(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> str:
    """Write a module's state dict as safetensors, atomically.

    Args:
        module: Its tensors may be on any device.
        path: The file; its folder is made if need be.
        metadata: What to write inside, see `model_card`.

    Returns:
        The file's sha256.
    """
    return write_tensors(module.state_dict(), path, metadata)


def safetensors_file(path: str | Path) -> Path:
    """A file that weights can be written to.

    Raises:
        ValueError: If it is not named so, or is a folder.
    """
    path = Path(path)
    if path.suffix != ".safetensors" or path.is_dir():
        raise ValueError(f"a file of weights must be named OUT.safetensors; got {path}")
    return path


def write_tensors(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> str:
    """Write tensors as safetensors, atomically: a file of that name is either the old or the whole new one.

    Args:
        tensors: By name. Tensors that share memory are written each in full.
        path: The file; its folder is made if need be.
        metadata: What to write inside.

    Returns:
        The file's sha256.

    Raises:
        OSError: If it cannot be written, with what to do about it; the file is then what it was before.
        ValueError: If a name is none that such a file can hold.
    """
    if "__metadata__" in tensors:
        raise ValueError(f"{path} cannot hold a tensor called __metadata__, where the model card stands; rename it")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    held: set[int] = set()
    state = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage()
        state[name] = own.clone() if memory.data_ptr() in held or memory.nbytes() > own.nbytes else own
        held.add(memory.data_ptr())
    write_whole(path, *_sorted(save(state, dict(metadata or {}))))
    return sha256(path)


def _sorted(content: bytes) -> tuple[bytes, memoryview]:
    """Header and tensors of a safetensors file, its model card in the order of names; the library's order is random."""
    length = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length - 8)
    return content[:8] + text, memoryview(content)[length:]


def state_digest(module: nn.Module) -> str:
    """Hex digest of a module's tensors, names and shapes included: tells whether two modules compute with the same.

    Buffers that no weight file holds count as well, such as the mean and deviation that images are normalised by.
    """
    named = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    return tensors_digest(named)


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex digest of tensors with their names, shapes and types, in any order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        own = tensor.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(own.view(torch.uint8).numpy().data)
    return digest.hexdigest()
