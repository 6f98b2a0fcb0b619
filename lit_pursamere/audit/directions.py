"""What a direction is worth under the noise that it was made for, and under many other noises.

Reference: Liu et al. (2025), "Understanding and Enhancing the Robustness of Diffusion-Based Purification", appendix C
(Figure 8).

    g_j = gradient of the loss at x under noise table j, j = 0..K-1
    d   = one step (FGSM) along g_0 (DW-box), along the mean of all g_j (DW-semi-K), or of random signs
    the loss at x + r d for r from -2 eps to 2 eps, under table 0 and under one table of the set, drawn for every image
    the loss at x and x + eps d under every table of the set

FOLDER/images.jsonl         a row per image: all of these, see `rows`
FOLDER/directions.json      what was asked, names and shapes of what the rows hold, means and 95 % intervals, all rows
FOLDER/directions.png       the mean loss along the directions; on how many tables images are misclassified
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from lit_pursamere.attacks.gradients import Loss, loss_gradient
from lit_pursamere.audit.base import Answer, Audit, Trial
from lit_pursamere.audit.directions_table import directions_figure, directions_table
from lit_pursamere.audit.plane import losses_at
from lit_pursamere.audit.rows import image_rows
from lit_pursamere.audit.similarity import require_fresh
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import NoiseSource, NoiseTables
from lit_pursamere.diffusion.image_noise import image_keys, keyed_normal
from lit_pursamere.host import deferred
from lit_pursamere.progress import Progress
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.atomic import write_whole

__all__ = ["Directions"]

REACH = 2  # of the lines, in units of eps


@dataclass(frozen=True)
class Directions(Audit):
    """The loss along steps that were made for one noise table, for a whole set of them, and at random.

    Args:
        attack: Name of the attack among the configured ones, of which view, loss and threat model count (None: the last
            one that sees the purifier).
        images: Number of images, the first ones, at least 2. More can be added later.
        tables: Noise tables of the set (Liu et al.: 128).
        points: Points of every line, an odd number; 33 are a sixteenth of its length apart (Liu et al.).
        table: Seed of the tables.
        seed: Seed of the random signs and of the choice of tables, mixed with an image's position.
        output: Folder of directions.json, directions.png and the rows, from which a run that was stopped goes on.

    Raises:
        ValueError: If a number is too small, or `points` is even.
    """

    output: str = "runs/directions"
    tables: int = 128
    points: int = 17
    table: int = 0
    seed: int = 0

    least = {"images": 2, "tables": 2, "points": 3, "table": 0, "seed": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points % 2 == 0:
            raise ValueError(f"Directions needs an odd number of points, one at the image; got {self.points}")

    def run(self, trial: Trial) -> Answer:
        """Complete the rows of the images, write directions.json and directions.png, and answer with the table.

        Raises:
            ValueError: If the purifier draws no fresh noise, or the folder holds other directions.
            OSError: If another run is writing there.
        """
        require_fresh(trial.defense)
        manifest = self.manifest(trial)
        with (
            ResultsFolder(self.output, manifest) as opened,
            Progress("directions", "image", len(trial.x), trial.hidden) as progress,
        ):
            rows = image_rows(opened, trial, partial(self.found, trial, progress), progress, trial.batch)
            names = ["one table", f"{self.tables} tables", "random signs"]
            summary = {"asked": manifest, "directions": names, "noises": names[:2],
                       "lengths": self.lengths.tolist(), "rows": rows}  # fmt: skip
            return Answer(save(opened.folder, summary, type(trial.defense.purifier).__name__))

    @property
    def lengths(self) -> Tensor:
        """Where on the lines the loss is asked for, in units of eps."""
        return torch.linspace(-REACH, REACH, self.points)

    def manifest(self, trial: Trial) -> dict[str, object]:
        settings = {key: value for key, value in asdict(self).items() if key not in ("attack", "images", "output")}
        return {**settings, "reach": REACH, "batch": trial.batch, **super().manifest(trial)}

    def found(self, trial: Trial, progress: Progress, x: Tensor, y: Tensor, index: list[int]) -> dict[str, list[Any]]:
        """The row of every image; D directions (one table, the set, random signs), K points, J tables.

        `cosine`: of the gradients of the first two. `loss` (2, D, K): along the lines, under table 0 and under the set.
        `spread`, `wrong` (3, J): loss and misclassification at the image, and at eps along the first two, under every
        table.
        """
        tables, budget = NoiseTables(self.tables, self.table), trial.attack.budget
        each = [drawing_from(trial.defense, tables.table(number)) for number in range(self.tables)]
        loss: Loss = getattr(trial.attack, "loss", "ce")
        keys = image_keys(torch.tensor(index), f"seed {self.seed}")
        with progress.inside("gradients", "table") as steps:
            first, mean = slopes([defense.view(trial.attack.view) for defense in each], x, y, loss, steps)
        signs = keyed_normal(keys, 0, 1, x)[0].sign()
        directions = budget.eps * torch.stack([budget.ascent_direction(way) for way in (first, mean, signs)])
        lines = x + self.lengths.to(x)[:, None, None, None, None] * directions[:, None]  # (D, K, B, C, H, W)
        curves = []
        for defense in (each[0], drawing_from(trial.defense, tables)):
            values, _ = losses_at(defense, lines.flatten(0, 1), y, loss, keys)
            curves.append(values.unflatten(0, lines.shape[:2]))
        places, under_each = torch.stack([x, *(x + directions[:2])]), []
        with progress.inside("spread", "table") as steps:
            for number, defense in enumerate(each):
                under_each.append(torch.stack(losses_at(defense, places, y, loss, keys)))
                steps(number + 1, self.tables)
        spread, wrong = torch.stack(under_each).permute(1, 3, 2, 0)  # (J, 2, 3, B) to (2, B, 3, J)
        return {"cosine": cosine_similarity(first.flatten(1), mean.flatten(1)).tolist(),
                "loss": torch.stack(curves).movedim(-1, 0).tolist(),
                "spread": spread.tolist(), "wrong": wrong.tolist()}  # fmt: skip


def drawing_from(defense: Defense, noise: NoiseSource) -> Defense:
    """The same purifier and classifier with other noise."""
    return Defense(defense.purifier.drawing_from(noise), defense.classifier)


@deferred()
@torch.enable_grad()
def slopes(
    views: Sequence[nn.Module], x: Tensor, y: Tensor, loss: Loss, progress: Callable[[int, int], None]
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss at x (B, C, H, W), of the first view and on average over all."""
    first, total = None, torch.zeros_like(x)
    for number, view in enumerate(views):
        gradient, _ = loss_gradient(view, x, y, loss=loss)
        first, total = gradient if first is None else first, total + gradient
        progress(number + 1, len(views))
    assert first is not None
    return first, total / len(views)


def save(folder: Path, summary: dict[str, Any], title: str) -> str:
    """Write directions.json and directions.png; returns the table."""
    table, means = directions_table(summary)
    write_whole(folder / "directions.json", (json.dumps(means | summary, indent=1) + "\n").encode())
    with beside("directions.png"):
        save_figure(directions_figure(summary, title), folder / "directions.png")
    return table
