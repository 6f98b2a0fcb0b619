"""Opens weight files of any kind, recognised by their content and never by their name.

    folder -> diffusers' config.json and weight file
    {"...  -> safetensors      PK -> zip archive of torch.save      \\x80 -> legacy archive of torch.save, or a pickle

Pickles are read by `pickles/`, which makes tensors, plain containers and inert records, and runs nothing.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from lit_pursamere.names import meant
from lit_pursamere.weights.cache import located
from lit_pursamere.weights.pickles import ModuleState, NeedsCode, Refused, is_legacy, read_pickle
from lit_pursamere.weights.registry import entries

__all__ = ["Content", "folder_settings", "printable", "read_content", "some"]

FOLDER_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
FOLDER_PARTS = {"ema": "unet_ema", "raw": "unet"}  # of a pipeline, and of what diffusers' trainings write
SCHEDULERS = ("scheduler_config.json", "scheduler/scheduler_config.json", "../scheduler/scheduler_config.json")
HEADER_AT_MOST = 1 << 25  # bytes
TENSORS_AT_MOST = 100_000
DIMENSIONS_AT_MOST = 64  # torch computes with no more
AGAIN = "download or copy it again"


@dataclass(frozen=True)
class Content:
    """What a weight file holds, before its layout is known.

    Args:
        path: The file itself, inside its folder if a folder was given.
        kind: `safetensors`, `torch archive`, `pickle` or `diffusers folder`.
        value: Tensors by name, or whatever was saved.
        metadata: What the file says about itself.
        which: Which of several files in a folder it is: `ema`, `raw`, or by its name; else `only one`.
    """

    path: Path
    kind: str
    value: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    which: str = "only one"


def read_content(path: str | Path, execute: bool = False, weights: str = "ema") -> Content:
    """Read a weight file or a diffusers folder.

    Args:
        path: File or folder, or a name of the registry.
        execute: Unpickle with full power, which runs whatever the file says. Only for files that are trusted.
        weights: `ema` or `raw`, or the name of a part: which to take of a folder that holds several.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file, or no weights in the folder.
        ValueError: If the file is damaged, no weight file, or would have to run code.
    """
    path = located(path)
    if path.is_dir():
        return _read_folder(path, execute, weights)
    if not path.is_file():
        raise FileNotFoundError(
            f"no weight file at {path} (looked from {Path.cwd()}); give the path of a checkpoint, or a name"
            f"{meant(path.as_posix(), entries()) or ' of those that lit-pursamere weights list shows'}"
        )
    with open(path, "rb") as file:
        head = file.read(512)
    try:
        if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
            return _read_safetensors(path)
        if not head.startswith((b"PK", b"\x80")):
            raise Refused(_no_weights(head))
        of_torch = head.startswith(b"PK") or is_legacy(head)
        with open(path, "rb") as file:
            value = _run(path, of_torch) if execute else read_pickle(file)
        return Content(path, "torch archive" if of_torch else "pickle", value)
    except Exception as error:  # a damaged or hostile file can provoke any error; each becomes the same kind of line
        size = path.stat().st_size
        raise ValueError(f"{path} is not a readable weight file ({size} bytes): {_reason(error, execute)}") from error


def _read_safetensors(path: Path) -> Content:
    _check_header(path)
    with safe_open(path, framework="pt") as file:
        names, metadata = file.keys(), file.metadata() or {}
        return Content(path, "safetensors", {name: file.get_tensor(name) for name in names}, metadata)


def _check_header(path: Path) -> None:
    """Read the shapes that safetensors claims, since a long one takes all memory when its tensor is made."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_AT_MOST:
            raise Refused(f"its header claims {length} bytes")
        entries = json.loads(file.read(length))
    if len(entries) > TENSORS_AT_MOST:
        raise Refused(f"it holds {len(entries)} tensors")
    shapes = {name: entry.get("shape") for name, entry in entries.items() if isinstance(entry, dict)}
    for name, shape in shapes.items():
        if isinstance(shape, list) and len(shape) > DIMENSIONS_AT_MOST:
            raise Refused(f"its tensor {name} has {len(shape)} dimensions")


def _run(path: Path, of_torch: bool) -> Any:
    """Unpickle with full power, and put the state dict in the place of every module."""
    if of_torch:
        content = torch.load(path, map_location="cpu", weights_only=False)
    else:
        with open(path, "rb") as file:
            content = pickle.load(file)

    def state(value: Any) -> Any:
        return ModuleState(value.state_dict(), type(value).__name__, {}) if isinstance(value, nn.Module) else value

    return {key: state(value) for key, value in content.items()} if isinstance(content, Mapping) else state(content)


def _no_weights(head: bytes) -> str:
    """Say what a file that is no weight file at all looks like."""
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return f"it is empty; {AGAIN}"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")):
        return "it looks like a web page, so the download failed; open the address in a browser and see what it says"
    if start.startswith(b"version https://git-lfs"):
        return "it is only the pointer of Git LFS; run `git lfs pull` where it came from"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        return "it is compressed; unpack it first"
    with contextlib.suppress(UnicodeDecodeError):
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
        if all(character.isprintable() or character in "\t\r\n\f" for character in text):
            return f"it is text (it begins {text[:30]!r}), so perhaps the download failed; {AGAIN}"
    return f"it begins with {head[:4].hex(' ')}, which is neither safetensors, nor torch.save, nor a pickle; {AGAIN}"


def printable(text: str, limit: int = 300) -> str:
    """Text of a file, made fit for a terminal: one line, no control characters, not endless."""
    line = "".join(character if character.isprintable() else "?" for character in " ".join(text[: limit + 1].split()))
    return line if len(text) <= limit else f"{line[:limit]}..."


def some(names: list[str], limit: int = 3) -> str:
    """The first of a file's names, made fit for a terminal."""
    return ", ".join(printable(name) for name in names[:limit]) + (", ..." if len(names) > limit else "") or "none"


def _reason(error: Exception, execute: bool = False) -> str:
    """One line: what is wrong, and the mend."""
    text = printable(str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__)
    if isinstance(error, NeedsCode):
        return (
            f"{text}, and nothing in it was run; if you trust it, turn it into safetensors on a machine that you can "
            "afford to lose: lit-pursamere weights convert FILE OUT.safetensors --execute-code-in-file"
        )
    if isinstance(error, Refused):
        return text
    if execute and isinstance(error, ImportError | AttributeError):
        return f"its code does not run here ({text}); put the code that it was saved with on PYTHONPATH"
    return f"it is cut short or damaged ({text}); {AGAIN}"


def _read_folder(folder: Path, execute: bool, weights: str) -> Content:
    """Read config.json and the weights beside it, as diffusers saves a model; a pipeline keeps them in unet/."""
    part, file, chosen = _of_folder(folder, weights)
    content, stated = read_content(file, execute), _stated(file.with_name("config.json"))
    for scheduler in (folder / part / name for name in SCHEDULERS):
        stated = _stated(scheduler) | stated if scheduler.is_file() else stated
    which = weights if chosen else "only one"
    return Content(content.path, "diffusers folder", content.value, {**stated, **content.metadata}, which)


def folder_settings(path: str | Path, weights: str = "ema") -> tuple[dict[str, Any], int] | None:
    """What the config.json of a diffusers folder holds, and the size of its weight file in bytes.

    Args:
        path: File or folder, or a name of the registry.
        weights: As in `read_content`.

    Returns:
        Both; None if the path is that of no folder.

    Raises:
        FileNotFoundError: If there are no weights in the folder.
        ValueError: If its config.json cannot be read.
    """
    path = located(path)
    if not path.is_dir():
        return None
    file = _of_folder(path, weights)[1]
    return _configuration(file.with_name("config.json")), file.stat().st_size


def _of_folder(folder: Path, weights: str) -> tuple[str, Path, bool]:
    """The part of a diffusers folder that is meant, its weight file, and whether there were others to choose from."""
    whole = {
        part: folder / part / name
        for part in (".", *FOLDER_PARTS.values())
        for name in reversed(FOLDER_FILES)
        if (folder / part / "config.json").is_file() and (folder / part / name).is_file()
    }
    if not whole:
        held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
        raise FileNotFoundError(
            f"no weight file at {folder}: it is a folder, but not one of diffusers (config.json beside "
            f"{' or '.join(FOLDER_FILES)}); it holds {held}; give the path of a file"
        )
    whole = {".": whole["."]} if "." in whole else whole
    asked = FOLDER_PARTS.get(weights, weights)
    part = asked if asked in whole else next(iter(whole))
    return part, whole[part], part == asked and len(whole) > 1


def _stated(config: Path) -> dict[str, str]:
    """The settings in a file of diffusers, as JSON; text as it is."""
    facts = _configuration(config)
    named = {"class": facts.pop("_class_name"), **{name.lstrip("_"): value for name, value in facts.items()}}
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in named.items()}


def _configuration(config: Path) -> dict[str, Any]:
    """What a configuration of diffusers holds, its class among it."""
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
        return {"_class_name": facts["_class_name"], **facts}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{config} is not the configuration of a diffusers model: {_reason(error)}") from error
