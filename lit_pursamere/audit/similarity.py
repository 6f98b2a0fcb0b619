"""Compare averaged gradients of a stochastic defence with those of known noise, image by image, and write it down.

twin = the same defence with one noise table for everything          (Liu et al., 2025: DW_Both)
for every image that has no row yet:  row = eot_similarity(defence, twin, attack on the twin)
rows  ->  similarity.json, similarity.png

FOLDER/images.jsonl         one row per image: cosines with both references by number of draws, see `rows`
FOLDER/similarity.json      what was compared, the counts, means and 95 % intervals (Student's t), all rows
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_pursamere.attacks.similarity import eot_similarity
from lit_pursamere.audit.base import Answer, Audit, Trial
from lit_pursamere.audit.rows import image_rows
from lit_pursamere.audit.similarity_table import REFERENCES, mean_interval, similarity_figure, similarity_table
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import SeededNoise
from lit_pursamere.progress import Progress
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.seeding import forked_randomness
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.atomic import write_whole
from lit_pursamere.store.durable import Row

__all__ = ["Similarity", "draws_fresh", "known_twin", "require_fresh"]


@dataclass(frozen=True)
class Similarity(Audit):
    """How many draws average to the gradient under known noise; `data.eval_batch_size` draws share a forward pass.

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

    images: int = 16
    output: str = "runs/eot_similarity"
    draws: int = 128
    table: int = 0
    seed: int = 0

    least = {"images": 2, "draws": 1, "table": 0, "seed": 0}

    @property
    def counts(self) -> tuple[int, ...]:
        """1, 2, 4, ... and the largest number of draws."""
        return tuple(sorted({*(2**i for i in range(self.draws.bit_length())), self.draws}))

    def run(self, trial: Trial) -> Answer:
        """Complete the rows of the images, write similarity.json and similarity.png, and answer with the table.

        Raises:
            ValueError: If the purifier draws no fresh noise, or the folder holds another comparison.
            OSError: If another run is writing there.
        """
        if hasattr(trial.attack, "eot"):
            attack: Any = trial.attack
            trial = replace(trial, attack=replace(attack, eot=1))
        view = trial.defense.view(trial.attack.view)
        known = known_twin(trial.defense, self.table).view(trial.attack.view)
        manifest = self.manifest(trial)
        with (
            ResultsFolder(self.output, manifest) as opened,
            Progress("similarity", "image", len(trial.x), trial.hidden) as progress,
        ):

            def compute(x: Tensor, y: Tensor, index: list[int]) -> dict[str, list]:
                with progress.inside("fresh noise", "draw") as draws, forked_randomness(self.seed, *index):
                    cosines = eot_similarity(view, known, trial.attack, x, y, self.counts, trial.batch, draws)
                return {name: value.tolist() for name, value in cosines._asdict().items()}

            rows = image_rows(opened, trial, compute, progress)
            title = f"{type(trial.defense.purifier).__name__}, {trial.name}"
            return Answer(save(opened.folder, self.counts, rows, manifest, title))

    def manifest(self, trial: Trial) -> dict[str, object]:
        settings = {key: value for key, value in asdict(self).items() if key not in ("attack", "images", "output")}
        return {**settings, **super().manifest(trial), "chunk": trial.batch}


def draws_fresh(defense: Defense) -> bool:
    """Whether its purifier draws noise that is not all known."""
    noise = getattr(defense.purifier, "noise", None)
    return noise is not None and not isinstance(noise, SeededNoise)


def require_fresh(defense: Defense) -> None:
    """Raise a ValueError if a defence draws no fresh noise."""
    if not draws_fresh(defense):
        raise ValueError(
            f"{type(defense.purifier).__name__} draws no fresh noise, so there is nothing to average; say "
            "`--model.noise fresh` if it draws any"
        )


def known_twin(defense: Defense, table: int) -> Defense:
    """The defence with the same weights, whose noise is one table for all images and calls.

    Raises:
        ValueError: If its purifier draws no fresh noise.
    """
    require_fresh(defense)
    return Defense(defense.purifier.drawing_from(SeededNoise(table)), defense.classifier)


def save(folder: Path, counts: Sequence[int], rows: list[Row], manifest: dict, title: str) -> str:
    """Write similarity.json and similarity.png; returns the table."""
    means = {name: [mean_interval(column) for column in zip(*(row[name] for row in rows), strict=True)]
             for name in REFERENCES}  # fmt: skip
    summary = {
        "compared": manifest, "images": len(rows), "counts": counts, "references": REFERENCES,
        **{name: [dict(zip(("mean", "low", "high"), cell, strict=True)) for cell in cells]
           for name, cells in means.items()},
        "rows": rows,
    }  # fmt: skip
    write_whole(folder / "similarity.json", (json.dumps(summary, indent=1) + "\n").encode())
    with beside("similarity.png"):
        save_figure(similarity_figure(counts, rows, title), folder / "similarity.png")
    return similarity_table(counts, rows)
