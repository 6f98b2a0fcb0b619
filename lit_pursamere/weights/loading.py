"""Weight files for those who use them: what a file holds, its tensors, and a module filled with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_pursamere.weights.architectures import recognise
from lit_pursamere.weights.choice import choose
from lit_pursamere.weights.files import Content, printable, read_content, some
from lit_pursamere.weights.layouts import IGNORABLE, Selection, select
from lit_pursamere.weights.saving import sha256
from lit_pursamere.weights.settings import check_settings, normalisers

__all__ = ["WeightFile", "inspect_weights", "load_weights", "read_weights", "trained"]

BUFFERS = (*IGNORABLE, "running_mean", "running_var")
DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    torch.complex64, torch.complex128,
}  # fmt: skip
UNUSED_PARTS = ("sub_block1.",)  # RobustBench: some checkpoints carry a stage that their network never uses


@dataclass(frozen=True)
class WeightFile:
    """What a weight file holds.

    Args:
        path: The file; inside its folder if a folder was given.
        layout: Who wrote it and which set was taken, such as `score_sde checkpoint, EMA`.
        architecture: Recognised from names and shapes, such as `NCSNv2 ngf 64, 3 channels`; else `unknown`.
        parameters: Number of trainable numbers.
        weights: The set that was taken: `ema`, `raw`, `only one`, or the name that was asked for.
        sha256: Hex digest of the file.
        dtypes: Types of the tensors.
        metadata: What the file says about itself: its model card, or step, epoch, decay and the like.
        tensors: Tensors by the names that the file gives them, on the CPU.
    """

    path: Path
    layout: str
    architecture: str
    parameters: int
    weights: str
    sha256: str
    dtypes: tuple[str, ...]
    metadata: Mapping[str, str]
    tensors: Mapping[str, Tensor] = field(repr=False, compare=False)


def inspect_weights(path: str | Path, weights: str = "ema", execute: bool = False) -> WeightFile:
    """Read a weight file and say what it is.

    Args:
        path: A file, or a folder as diffusers saves it.
        weights: `ema` or `raw`: which set to take where a training checkpoint holds both; or the name of an entry or a
            part of it, where it holds several networks.
        execute: Run the code in the file if it needs that. Only for files that are trusted.

    Returns:
        Its description and its tensors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, not a weight file, lacks the wanted set, or holds NaN or infinities.
    """
    content, found = _read(path, weights, execute)
    parts = [tensor.numel() for name, tensor in found.tensors.items() if not name.endswith(BUFFERS)]
    return WeightFile(
        path=content.path,
        layout=found.layout,
        architecture=recognise(found.tensors),
        parameters=sum(parts),
        weights=found.which,
        sha256=sha256(content.path),
        dtypes=tuple(sorted(set(map(_type, found.tensors.values())))),
        metadata=found.metadata,
        tensors=found.tensors,
    )


def read_weights(path: str | Path, weights: str = "ema") -> dict[str, Tensor]:
    """Read the tensors of a weight file.

    Args:
        path: A file, or a folder as diffusers saves it.
        weights: `ema` or `raw`: which set to take where a training checkpoint holds both; or the name of an entry or a
            part of it, where it holds several networks.

    Returns:
        Tensors by the names that the file gives them, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, not a weight file, lacks the wanted set, or holds NaN or infinities.
    """
    return dict(_read(path, weights)[1].tensors)


def _read(path: str | Path, weights: str, execute: bool = False) -> tuple[Content, Selection]:
    content = read_content(path, execute, weights)
    try:
        found = select(content.value, "ema" if content.which == weights else weights)
    except ValueError as error:
        raise ValueError(f"{content.path} {error}") from error
    layout, which = found.layout, content.which if content.which != "only one" else found.which
    if content.kind in ("safetensors", "diffusers folder") and layout.startswith("plain state dict"):
        told = f"diffusers folder ({content.metadata['class']})" if content.kind == "diffusers folder" else content.kind
        layout = layout.replace("plain state dict", told)
    _check(found.tensors, content.path)
    return content, Selection(layout, which, found.tensors, dict(content.metadata) | found.metadata)


def _check(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Every tensor must hold its own finite numbers; a few bytes can claim to be a tensor of any size."""
    size = path.stat().st_size
    for key, tensor in tensors.items():
        name = printable(key)
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.dtype not in DTYPES:
            what = f"{tensor.layout} of {tensor.dtype} on {tensor.device}"
            raise ValueError(f"{path} holds {name} as {what}; save it as a dense tensor of a customary type")
        if tensor.numel() * tensor.itemsize > size:
            shape = tuple(tensor.shape)
            raise ValueError(f"{path} says that {name} is {shape}, which is more than its {size} bytes hold")
        if bad := _not_finite(tensor):
            raise ValueError(
                f"{path} holds NaN or infinite weights: {bad} of the {tensor.numel()} numbers of {name}; the run that "
                "wrote it diverged; take an earlier checkpoint"
            )


def _not_finite(tensor: Tensor) -> int:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return 0
    counted = tensor.float() if tensor.itemsize == 1 else tensor  # torch does not look into floats of 8 bits
    return int((~torch.isfinite(counted)).sum())


def load_weights(
    module: nn.Module, path: str | Path, weights: str = "ema", settings: Mapping[str, Any] | None = None
) -> Mapping[str, str]:
    """Fill a module from a weight file; every parameter must be found, with its shape, and nothing may be left over.

    Args:
        module: The module to fill, in place. Its attribute `settings`, if it has one, says what it computes with.
        path: Weight file or folder, see `read_weights`.
        weights: `ema` or `raw`, or the name of one of several networks in the file.
        settings: What else the weights will be used with: of these and its own settings the file may not state others.

    Returns:
        What the file says about itself, see `WeightFile.metadata`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file cannot be used, see `read_weights`; if names or shapes do not fit, where the message
            lists them and says what the file seems to be; if several networks fit; or if it states other settings.
    """
    found = _read(path, weights)[1]
    try:
        filled, state = _filling(module, found.tensors, weights if weights in ("ema", "raw") else "ema")
        check_settings(filled, found.metadata, settings or {})
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    filled.load_state_dict(state)
    return found.metadata


def _filling(module: nn.Module, tensors: Mapping[str, Tensor], weights: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The module, or the network that it only wraps, whichever those tensors fit, and its state dict from them.

    Raises:
        ValueError: If they fit neither; what does not fit the one whose names they have is told.
    """
    try:
        return module, _fitting(module, tensors, weights)
    except ValueError as error:
        inner = [child for child in module.children() if child.state_dict()]
        if len(inner) != 1 or len(inner[0].state_dict()) < len(module.state_dict()):
            raise
        try:
            return _filling(inner[0], tensors, weights)
        except ValueError as within:
            names_fit = "shapes differ" in str(within)
            raise (within if names_fit else error) from None


def _fitting(module: nn.Module, tensors: Mapping[str, Tensor], weights: str) -> dict[str, Tensor]:
    """The module's state dict from those tensors."""
    wanted, what = module.state_dict(), type(module).__name__
    required = {name: tensor for name, tensor in wanted.items() if not name.endswith(IGNORABLE)}
    prefix = _find_prefix(tensors, required, weights)
    found = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    passed = normalisers(found).keys() - wanted.keys()
    found = {name: tensor for name, tensor in found.items() if name not in passed}
    missing = [name for name in required if name not in found]
    extra = [n for n in found if n not in wanted and not n.endswith(IGNORABLE) and not n.startswith(UNUSED_PARTS)]
    if missing or extra:
        raise ValueError(
            f"does not fit this {what}: {len(missing)} names are missing ({some(missing)}) and {len(extra)} "
            f"are left over ({some(extra)}); {_looks_like(tensors)}; is it of another architecture or depth?"
        )
    wrong = [f"{n}: file {tuple(found[n].shape)}, here {tuple(wanted[n].shape)}" for n in required
             if found[n].shape != wanted[n].shape]  # fmt: skip
    if wrong:
        raise ValueError(
            f"does not fit this {what}: {len(wrong)} shapes differ ({some(wrong)}); {_looks_like(tensors)}; "
            "check the width and the number of channels and classes"
        )
    other = [f"{n}: file {_type(found[n])}, here {_type(wanted[n])}" for n in required
             if found[n].is_floating_point() != wanted[n].is_floating_point()]  # fmt: skip
    if other:
        raise ValueError(
            f"does not fit this {what}: {len(other)} tensors are of another kind of numbers ({some(other)}), which "
            "would be rounded; save them as they were trained"
        )
    # Of the names that may be missing, those that are there and fit are taken too (BatchNorm's counters).
    return wanted | {name: t for name, t in found.items() if name in wanted and t.shape == wanted[name].shape}


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def trained(network: nn.Module, checkpoint: str | None, weights: str = "ema") -> nn.Module:
    """A network with its weights: what a configuration names where a module is wanted.

    Args:
        network: The network; filled in place.
        checkpoint: Its weight file, see `load_weights`. None: its weights as they are.
        weights: `ema` or `raw`, or the name of one of several networks in the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not fit.
    """
    if checkpoint is not None:
        load_weights(network, checkpoint, weights)
    return network


def _looks_like(tensors: Mapping[str, Tensor]) -> str:
    architecture = recognise(tensors)
    return (
        "the file is of no architecture known here"
        if architecture == "unknown"
        else f"the file looks like {architecture}"
    )


def _find_prefix(tensors: Mapping[str, Tensor], required: Mapping[str, Tensor], weights: str) -> str:
    """The prefix under which the wanted names stand, or most of them.

    Raises:
        ValueError: If there are several networks that fit, side by side, and `weights` does not say which.
    """
    lengths = {len(name) for name in required}
    splits = [(name[:-n], name[-n:]) for name in tensors for n in lengths if n <= len(name) and name[-n:] in required]
    names = Counter(prefix for prefix, _ in splits)
    fitting = Counter(prefix for prefix, name in splits if tensors[prefix + name].shape == required[name].shape)
    sets: dict[str, dict[str, Tensor]] = {}
    for prefix in sorted(prefix for prefix, count in fitting.items() if count == len(required)):
        if not sets or not prefix.startswith(next(reversed(sets))):  # else it is a part of another one
            sets[prefix] = {name: tensors[prefix + name] for name in required}
    if len(sets) > 1:
        parts = {prefix.rstrip("."): prefix for prefix in sets}
        return parts[choose({part: sets[prefix] for part, prefix in parts.items()}, weights)[0]]
    return next(iter(sets), max(names, key=lambda prefix: (names[prefix], -len(prefix)), default=""))
