"""Adversarial images in one file, exactly as they were judged, for others to judge on a defence of their own.

    images     (N, C, H, W)  the attacked images, uint8 where all are whole grey levels, else floats in [0, 1]
    clean      (K, C, H, W)  the untouched images, the same way
    which      (N,)          row of `clean` that an attacked image was made from
    labels     (N,)          true classes
    positions  (N,)          positions of the images in their data set
    systems    (N,)          name of the defence that an image was made against
    attacks    (N,)          name of the attack
    accuracy   (N,)          how right that defence was on it, in [0, 1]: a share of its evaluations
    manifest   ()            JSON: that of the run, with its threat models, and which iterate was taken

NumPy reads it without anything of this package: `numpy.load(FILE)`, `json.loads(str(file["manifest"]))`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from lit_pursamere.data.arrays import list_arrays, read_array
from lit_pursamere.data.resident import to_levels
from lit_pursamere.names import shown
from lit_pursamere.store import read_rows
from lit_pursamere.store.atomic import replacing
from lit_pursamere.store.durable import Row
from lit_pursamere.store.entries import damaged
from lit_pursamere.store.images import read_images
from lit_pursamere.store.manifest import read_manifest, require_stated
from lit_pursamere.store.records import CLEAN

__all__ = ["Exported", "exported", "read_exported", "write_exported"]

Iterate = Literal["any", "last"]
FORMAT = 1
IMAGES, NUMBERS, TEXTS = ("images", "clean"), ("which", "labels", "positions"), ("systems", "attacks")


@dataclass(frozen=True, eq=False)
class Exported:
    """Attacked images, as the file above has them; `manifest` is what its JSON says."""

    images: np.ndarray
    clean: np.ndarray
    which: np.ndarray
    labels: np.ndarray
    positions: np.ndarray
    systems: np.ndarray
    attacks: np.ndarray
    accuracy: np.ndarray
    manifest: dict


def exported(folder: Path, iterate: Iterate = "any") -> Exported:
    """The images that a run has kept.

    Args:
        folder: Of the run.
        iterate: `any`, the images that decided the verdict `any`; `last`, the last iterates.

    Raises:
        FileNotFoundError: If there is no run.
        ValueError: If it kept no images, or has attacked none.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(f"no run in {folder}; name the output folder of a `lit-pursamere test`")
    require_stated(folder, manifest, "data", "attacks", "weights", "images.shape")
    rows = read_rows(folder)
    untouched = {row["index"]: row for row in rows if row["attack"] == CLEAN}
    attacked = [row for row in rows if row["attack"] in manifest["attacks"] and row["index"] in untouched]
    if not attacked:
        raise ValueError(f"{folder} holds no attacked images; its test has attacks {', '.join(manifest['attacks'])}")
    order = {index: place for place, index in enumerate(sorted(untouched))}
    clean, _ = read_images(folder, [untouched[index] for index in order])
    last, any_ = read_images(folder, attacked)
    return Exported(
        to_levels(last if iterate == "last" else any_).numpy(),
        to_levels(clean).numpy(),
        np.array([order[row["index"]] for row in attacked], np.int64),
        np.array([row["label"] for row in attacked], np.int64),
        np.array([row["index"] for row in attacked], np.int64),
        np.array([row["system"] for row in attacked]),
        np.array([row["attack"] for row in attacked]),
        np.array([rightness(row, iterate) for row in attacked]),
        {"format": FORMAT, "iterate": iterate, **manifest},
    )


def rightness(row: Row, iterate: Iterate) -> float:
    """How right the defence was, in [0, 1]; attacks that do not see it are judged at the last iterate."""
    votes = row.get(f"votes_{iterate}")
    return (row["votes_last"] if votes is None else votes) / row["evaluations"]


def write_exported(found: Exported, file: Path) -> None:
    """Write the file, whole or not at all.

    Raises:
        FileExistsError: If there is one of that name.
        OSError: If it cannot be written.
        ValueError: If its name does not end in .npz.
    """
    if file.suffix != ".npz":
        raise ValueError(f"the file of the images must be called ... .npz; got {file}")
    if file.exists() or file.is_symlink():
        raise FileExistsError(f"{file} is there already; choose another name, or remove it")
    file.parent.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: getattr(found, field.name) for field in fields(found)}
    arrays["manifest"] = np.array(json.dumps(found.manifest))
    with replacing(file) as temporary, open(temporary, "wb") as opened:
        np.savez_compressed(opened, **arrays)


def read_exported(file: Path) -> Exported:
    """Read such a file, of which nothing is run or believed.

    Raises:
        FileNotFoundError: If there is none.
        OSError: If it is damaged, or holds pickled objects.
        ValueError: If it holds something else; the message says what.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; `lit-pursamere export RUN {file}` makes one of a run")
    told = list_arrays(file)
    names = [field.name for field in fields(Exported)]
    if absent := [name for name in names if name not in told]:
        raise ValueError(
            f"{file} is no file of `lit-pursamere export`: it lacks {', '.join(absent)}; it holds "
            f"{', '.join(map(shown, sorted(told))) or 'nothing'}"
        )
    if wrong := misshapen({name: told[name] for name in names}):
        raise ValueError(f"{file}: {wrong}")
    arrays = {name: read_array(file, name) for name in names}
    manifest = manifest_of(file, str(arrays.pop("manifest")))
    found = Exported(**arrays, manifest=manifest)
    if wrong := inconsistent(found):
        raise ValueError(f"{file}: {wrong}")
    return found


def misshapen(told: dict[str, tuple[tuple[int, ...], np.dtype]]) -> str | None:
    """What is wrong with shapes and types, from the headers alone."""
    count, kinds = told["images"][0][:1], {**dict.fromkeys(NUMBERS, "iu"), **dict.fromkeys(TEXTS, "U"), "accuracy": "f"}
    for name, (shape, dtype) in told.items():
        if name in IMAGES:
            right = len(shape) == 4 and min(shape) > 0 and dtype.name in ("uint8", "float32", "float64")
            right &= shape[1:] == told["images"][0][1:]
        elif name == "manifest":
            right = shape == () and dtype.kind == "U"
        else:
            right = shape == count and dtype.kind in kinds[name]
        if not right:
            return f"{name} is {dtype} {shape}, beside images {told['images'][1]} {told['images'][0]}"
    return None


def manifest_of(file: Path, text: str) -> dict:
    """The manifest, of which every entry that is computed with is of its kind."""
    try:
        manifest = json.loads(text)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(f"its format is none that this version reads, {FORMAT}")
        if wrong := damaged(manifest):
            raise ValueError(wrong)
        if absent := [name for name in ("attacks", "data", "weights", "iterate") if name not in manifest]:
            raise ValueError(f"it does not state {', '.join(absent)}")
        if not isinstance(manifest["weights"], dict):
            raise ValueError("weights are not told by system")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: its manifest is damaged ({shown(error)})") from error
    return manifest


def inconsistent(found: Exported) -> str | None:
    """What cannot be true of the content."""
    for name in IMAGES:
        array = getattr(found, name)
        if array.dtype != np.uint8 and not (array.min() >= 0 and array.max() <= 1):  # NaN is neither
            return f"{name} leave [0, 1]: they range from {array.min():g} to {array.max():g}"
    for name, most in (("which", len(found.clean) - 1), ("labels", 2**31), ("positions", 2**62)):
        array = getattr(found, name)
        if array.min() < 0 or array.max() > most:
            return f"{name} must lie in 0 to {most}; they range from {array.min()} to {array.max()}"
    if not (found.accuracy.min() >= 0 and found.accuracy.max() <= 1):
        return "accuracy leaves [0, 1]"
    if unknown := sorted(set(found.attacks.tolist()) - found.manifest["attacks"].keys()):
        return f"its manifest does not describe the attack {shown(unknown[0])}"
    return first_twice(zip(found.systems.tolist(), found.attacks.tolist(), found.positions.tolist(), strict=True))


def first_twice(keys: zip) -> str | None:
    """The first image that is there twice."""
    seen: set[Sequence[object]] = set()
    for key in keys:
        if key in seen:
            return f"the image {shown(key[2])} of {shown(key[0])}, {shown(key[1])} is there twice"
        seen.add(key)
    return None
