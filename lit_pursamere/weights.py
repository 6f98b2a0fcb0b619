"""The only reader of weight files.

A file is either safetensors or a torch.save archive that is read with `weights_only=True`, so no code in it can
run. Inside, three layouts are known: a plain state dict, a Lightning checkpoint, and the list that the official
NCSNv2 training writes. Whatever prefix the names carry (`module.`, `score_model.network.` ...) is found by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

__all__ = ["load_weights", "read_weights", "save_weights", "sha256", "state_digest"]

# Entries that public checkpoints carry beside the parameters and that the networks here do not need.
IGNORABLE = ("sigmas", "num_batches_tracked")


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_weights(path: str | Path, weights: str = "ema") -> dict[str, Tensor]:
    """Read the tensors of a weight file.

    Args:
        path: The file.
        weights: `ema` or `raw`: which set to take where a training checkpoint holds both.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, not a weight file, or lacks the wanted set.
    """
    path = Path(path)
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights must be 'ema' or 'raw'; got {weights!r}")
    if not path.is_file():
        raise FileNotFoundError(f"no weight file at {path} (looked from {Path.cwd()}); give the path of a checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is not a readable weight file ({path.stat().st_size} bytes): {reason}") from error
    return _select(content, path, weights)


def _select(content: object, path: Path, weights: str) -> dict[str, Tensor]:
    if isinstance(content, list) and content and isinstance(content[0], Mapping):  # official NCSNv2 layout
        if weights == "ema" and len(content) < 5:
            raise ValueError(f"{path} holds no EMA weights (its list has {len(content)} entries); use weights: raw")
        content = content[4] if weights == "ema" else content[0]
    elif isinstance(content, Mapping) and "state_dict" in content:  # Lightning; under weight averaging state_dict = EMA
        averaged = "current_model_state" in content
        content = content["current_model_state"] if averaged and weights == "raw" else content["state_dict"]
    named = content.items() if isinstance(content, Mapping) else ()
    tensors = {k: v for k, v in named if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name: its content is a {type(content).__name__}")
    return tensors


def load_weights(module: nn.Module, path: str | Path, weights: str = "ema") -> None:
    """Fill a module from a weight file; every parameter must be found, with its shape, and nothing may be left over.

    Args:
        module: The module to fill, in place.
        path: Weight file, see `read_weights`.
        weights: `ema` or `raw`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If names or shapes do not fit; the message lists them.
    """
    tensors = read_weights(path, weights)
    wanted = module.state_dict()
    required = [name for name in wanted if not name.endswith(IGNORABLE)]
    prefix = _find_prefix(tensors, required)
    found = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    missing = [name for name in required if name not in found]
    extra = [name for name in found if name not in wanted and not name.endswith(IGNORABLE)]
    if missing or extra:
        what = type(module).__name__
        raise ValueError(
            f"{path} does not fit this {what}: {len(missing)} names are missing ({_some(missing)}) and {len(extra)} "
            f"are left over ({_some(extra)}); is it a checkpoint of another architecture or depth?"
        )
    wrong = [f"{n}: file {tuple(found[n].shape)}, here {tuple(wanted[n].shape)}" for n in required
             if found[n].shape != wanted[n].shape]  # fmt: skip
    if wrong:
        raise ValueError(
            f"{path} does not fit this {type(module).__name__}: {len(wrong)} shapes differ ({_some(wrong)}); "
            "check the width and the number of channels and classes"
        )
    module.load_state_dict({name: found.get(name, wanted[name]) for name in wanted})


def _find_prefix(tensors: Mapping[str, Tensor], required: list[str]) -> str:
    """The prefix under which most of the wanted names stand; the shortest if several hold them all."""
    anchor = required[0]
    candidates = sorted({name[: -len(anchor)] for name in tensors if name.endswith(anchor)} | {""}, key=len)
    return max(candidates, key=lambda prefix: sum(prefix + name in tensors for name in required))


def _some(names: list[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "") if names else "none"


def save_weights(module: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> str:
    """Write a module's state dict as safetensors, atomically; returns the file's sha256."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, temporary, metadata=dict(metadata or {}))
    temporary.replace(path)
    return sha256(path)


def state_digest(module: nn.Module) -> str:
    """Hex digest of a module's tensors, names and shapes included: tells whether two sets of weights are the same."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
