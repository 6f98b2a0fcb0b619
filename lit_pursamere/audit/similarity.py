"""Compare averaged gradients of a stochastic defence with those of known noise, image by image, and write it down.

twin = the same defence with one noise table for everything          (Liu et al., 2025: DW_Both)
for every image that has no row yet:  row = eot_similarity(defence, twin, attack on the twin)
rows  ->  similarity.json, similarity.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.attacks.similarity import eot_similarity
from lit_pursamere.audit.similarity_table import (
    REFERENCES,
    kept_rows,
    mean_interval,
    similarity_figure,
    similarity_table,
)
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import SeededNoise
from lit_pursamere.progress import Progress
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store.durable import append
from lit_pursamere.store.locks import FolderLock
from lit_pursamere.store.manifest import check_manifest, write_manifest
from lit_pursamere.weights import state_digest, tensors_digest

__all__ = ["Similarity", "known_twin", "run_similarity"]


@dataclass(frozen=True)
class Similarity:
    """How many draws to compare on how many images; `data.eval_batch_size` draws share a forward pass.

    Args:
        attack: Name of the attack among the configured ones (None: the last one that sees the purifier); known noise
            needs no EoT, so its `eot` counts as 1.
        images: Number of images, the first ones, at least 2. More can be added later.
        draws: Largest number of gradients that are averaged; the others are the powers of 2 below it.
        table: Seed of the known noise.
        seed: Seed of the fresh noise, mixed with an image's position; it has nothing in common with the table's.
        output: Folder of similarity.json, similarity.png and of the rows, from which a run that was stopped goes on.

    Raises:
        ValueError: If a number is too small.
    """

    attack: str | None = None
    images: int = 16
    draws: int = 128
    table: int = 0
    seed: int = 0
    output: str = "runs/eot_similarity"

    def __post_init__(self) -> None:
        for name, least in (("images", 2), ("draws", 1), ("table", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"Similarity needs {name} >= {least}; got {getattr(self, name)}")

    @property
    def counts(self) -> tuple[int, ...]:
        """1, 2, 4, ... and the largest number of draws."""
        return tuple(sorted({*(2**i for i in range(self.draws.bit_length())), self.draws}))


def known_twin(defense: Defense, table: int) -> Defense:
    """The defence with the same weights, whose noise is one table for all images and calls.

    Raises:
        ValueError: If its purifier draws no fresh noise.
    """
    noise = getattr(defense.purifier, "noise", None)
    if noise is None or isinstance(noise, SeededNoise):
        raise ValueError(
            f"{type(defense.purifier).__name__} draws no fresh noise, so there is nothing to average; say "
            "`--model.purifier.seed fresh` if it has a seed"
        )
    return Defense(defense.purifier.drawing_from(SeededNoise(table)), defense.classifier)


def run_similarity(
    settings: Similarity, defense: Defense, name: str, attack: Attack, x: Tensor, y: Tensor, index: Sequence[int],
    data: str, chunk: int = 64, hidden: bool = True,
) -> str:  # fmt: skip
    """Complete the rows of these images, write similarity.json and similarity.png, and return the table.

    Args:
        settings: What to do.
        defense: The defence; its purifier draws fresh noise.
        name: Name of the attack.
        attack: The attack; its view is differentiated.
        x: Images (B, C, H, W) in [0, 1].
        y: Their classes (B,).
        index: Their positions in the data set.
        data: Name of the data set and split.
        chunk: Draws per forward pass.
        hidden: Whether to keep progress to oneself.

    Raises:
        ValueError: If the purifier draws no fresh noise, or the folder holds another comparison.
        OSError: If another run writes there.
    """
    attack = replace(attack, eot=1) if hasattr(attack, "eot") else attack
    view, known = (d.view(attack.view) for d in (defense, known_twin(defense, settings.table)))
    manifest = {
        **{key: value for key, value in asdict(settings).items() if key not in ("attack", "images", "output")},
        "attack": attack.settings, "defense": defense.settings, "weights": state_digest(defense), "data": data,
        "chunk": chunk,
    }  # fmt: skip
    folder = Path(settings.output)
    lock = FolderLock(folder)
    try:
        if not check_manifest(folder, manifest):
            write_manifest(folder, manifest)
        rows, file = kept_rows(folder / "images.jsonl"), folder / "images.jsonl"
        with Progress("eot-similarity", "image", len(x), hidden) as progress:
            for image, label, position in zip(x.split(1), y.split(1), index, strict=True):
                new, pixels = position not in rows, tensors_digest({"x": image})
                if not new and rows[position]["pixels"] != pixels:
                    raise ValueError(
                        f"image {position} of {data} is not the one that {file} has a row of; choose another "
                        "`similarity.output`, or restore the data"
                    )
                if new:
                    with progress.inside("fresh noise", "draw") as draws, forked_randomness(settings.seed, position):
                        cosines = eot_similarity(view, known, attack, image, label, settings.counts, chunk, draws)
                    values = {key: value[0].tolist() for key, value in cosines._asdict().items()}
                    rows[position] = {"index": position, "label": int(label), "pixels": pixels, **values}
                    append(file, (json.dumps(rows[position]) + "\n").encode())
                progress.advance(1, skipped=not new)
        wanted = [rows[position] for position in index]
        return save(folder, settings.counts, wanted, manifest, f"{type(defense.purifier).__name__}, {name}")
    finally:
        lock.release()


def save(folder: Path, counts: Sequence[int], rows: list[dict], manifest: dict, title: str) -> str:
    """Write similarity.json and similarity.png; returns the table."""
    means = {name: [mean_interval(column) for column in zip(*(row[name] for row in rows), strict=True)]
             for name in REFERENCES}  # fmt: skip
    summary = {
        "compared": manifest, "images": len(rows), "counts": counts, "references": REFERENCES,
        **{name: [dict(zip(("mean", "low", "high"), cell, strict=True)) for cell in cells]
           for name, cells in means.items()},
        "rows": rows,
    }  # fmt: skip
    (folder / "similarity.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    similarity_figure(counts, rows, title).savefig(folder / "similarity.png", bbox_inches="tight")
    return similarity_table(counts, rows)
