"""Where attacks go that know the noise of a defence and that do not, and the loss between them.

Reference: Liu et al. (2025), "Understanding and Enhancing the Robustness of Diffusion-Based Purification", Figures 1
and 3, appendix D.

    ways      iterates of the attack with fresh noise, EoT 1 and its own EoT, and with one known noise table (DW-box)
    plane     of the displacements of the last two, see `plane`
    losses    at every iterate and on a grid of the plane, under the known noise and under fresh noise

FOLDER/images.jsonl         a row per image: all of these, see `rows`
FOLDER/landscape.json       what was asked, names and shapes of what the rows hold, means and 95 % intervals, all rows
FOLDER/landscape.png        the mean loss on the plane, and the mean ways on it           (Figure 3)
FOLDER/trajectories.png     the ways of two images, and the mean loss along all           (Figure 1)
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from lit_pursamere.attacks.gradients import Loss
from lit_pursamere.attacks.iterative import IterativeAttack
from lit_pursamere.audit.base import Answer, Audit, Trial
from lit_pursamere.audit.landscape_table import landscape_figure, landscape_table, trajectories_figure
from lit_pursamere.audit.plane import Projection, losses_at, on_plane, plane_of, seen_flat
from lit_pursamere.audit.rows import image_rows
from lit_pursamere.audit.similarity import draws_fresh, known_twin
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion.image_noise import image_keys, keyed_normal
from lit_pursamere.progress import Progress
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.store import ResultsFolder
from lit_pursamere.store.atomic import write_whole

__all__ = ["Landscape"]

KNOWN, FRESH = "known noise", "fresh noise"
REACH = (-0.5, 1.5)  # of the grid along both axes, in lengths of the way of the attack that knows the noise


@dataclass(frozen=True)
class Landscape(Audit):
    """The ways of attacks with known and with fresh noise, and the loss on the plane of both.

    A defence that draws no fresh noise is known: its plane is that of the attack and of random signs.

    Args:
        attack: Name of the attack among the configured ones, an attack by steps (None: the last one that sees the
            purifier); its `eot` is that of the attacker with fresh noise, known noise needs none.
        images: Number of images, the first ones, at least 2. More can be added later.
        points: Points of the grid along each axis.
        projection: How trajectories.png shows ways: `pca`, where straight lines are straight, or `tsne`.
        table: Seed of the known noise.
        seed: Seed of fresh noise, mixed with an image's position; it has nothing in common with the table's.
        output: Folder of figures, landscape.json and the rows, from which a run that was stopped goes on.

    Raises:
        ValueError: If a number is too small, or the projection is unknown.
    """

    output: str = "runs/landscape"
    points: int = 9
    projection: Projection = "pca"
    table: int = 0
    seed: int = 0

    least = {"images": 2, "points": 2, "table": 0, "seed": 0}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.projection not in ("pca", "tsne"):
            raise ValueError(f"projection must be pca or tsne; got {self.projection!r}")

    def run(self, trial: Trial) -> Answer:
        """Complete the rows of the images, write landscape.json and both figures, and answer with the table.

        Raises:
            ValueError: If the attack keeps no iterates, or the folder holds another landscape.
            OSError: If another run is writing there.
        """
        if not isinstance(trial.attack, IterativeAttack):
            raise ValueError(
                f"{trial.name} is {type(trial.attack).__name__}, which makes no steps that could be drawn; name "
                "another one of the configuration with --audit.attack, such as one of PGD"
            )
        manifest, world = self.manifest(trial), World(self, trial)
        with (
            ResultsFolder(self.output, manifest) as opened,
            Progress("landscape", "image", len(trial.x), trial.hidden) as progress,
        ):
            rows = image_rows(opened, trial, partial(world.found, progress), progress, trial.batch)
            summary = {
                "asked": manifest, "attackers": [*world.attackers], "noises": [*world.noises],
                "grid": world.grid.tolist(), "rows": rows,
            }  # fmt: skip
            return Answer(save(opened.folder, summary, f"{type(trial.defense.purifier).__name__}, {trial.name}"))

    def manifest(self, trial: Trial) -> dict[str, object]:
        settings = {key: value for key, value in asdict(self).items() if key not in ("attack", "images", "output")}
        own = {"reach": REACH, "evaluations": trial.evaluations, "batch": trial.batch}
        return {**settings, **own, **super().manifest(trial)}


class World:
    """Who attacks what, and the noises under which images are judged; the attacker who knows the noise comes last."""

    attackers: dict[str, tuple[IterativeAttack, Defense]]
    noises: dict[str, Defense]

    def __init__(self, asked: Landscape, trial: Trial) -> None:
        attack: Any = trial.attack
        eot = getattr(attack, "eot", 1)
        alone = replace(attack, eot=1) if eot > 1 else attack
        self.asked, self.evaluations = asked, trial.evaluations
        self.loss: Loss = getattr(attack, "loss", "ce")
        self.grid = torch.linspace(*REACH, asked.points)
        if not draws_fresh(trial.defense):
            self.attackers, self.noises = {KNOWN: (alone, trial.defense)}, {KNOWN: trial.defense}
            return
        known = known_twin(trial.defense, asked.table)
        self.noises = {KNOWN: known, FRESH: trial.defense}
        averaging = {f"{FRESH}, EoT {eot}": (attack, trial.defense)} if eot > 1 else {}
        self.attackers = {FRESH: (alone, trial.defense), **averaging, KNOWN: (alone, known)}

    def found(self, progress: Progress, x: Tensor, y: Tensor, index: list[int]) -> dict[str, list[Any]]:
        """The row of every image; A attackers, N noises, T iterates.

        `flat` (A, T, 2), `plane` (A, T, 2), `cosine` (A,), `loss` (N, A, T), `wrong` (N, 1 + A), `map` (N, G, G):
        coordinates of the iterates, seen by themselves and on the plane; cosines of the ways with that of the attacker
        who knows the noise; losses at the iterates; how often the defence errs at the image and at the last iterates;
        losses on the grid, the first axis first.
        """
        keys = partial(image_keys, torch.tensor(index), f"seed {self.asked.seed}")
        ways = []
        for name, (attack, defense) in self.attackers.items():
            with progress.inside(f"attack, {name}", "step") as steps:
                ways.append(attack.iterates(defense.view(attack.view), x, y, steps, keys(name)))
        paths = torch.stack(ways)
        moved = paths - x
        signs = keyed_normal(keys("second axis"), 0, 1, x)[0].sign()
        axes = plane_of(moved[-1, -1], moved[-2, -1] if len(moved) > 1 else signs)
        first, second = (axis[None, None] for axis in axes)
        at = self.grid.to(x)[:, None, None, None, None, None]
        grid = (x + at * first + at.movedim(0, 1) * second).flatten(0, 1)
        ends = torch.stack([x, *paths[:, -1]])
        loss, wrong, maps = [], [], []
        for name, defense in self.noises.items():
            ask = partial(losses_at, defense, y=y, loss=self.loss)
            with progress.inside(f"loss, {name}", "point") as steps:
                maps.append(ask(grid, keys=keys("map"), progress=steps)[0].unflatten(0, (len(at), -1)))
            loss.append(ask(paths.flatten(0, 1), keys=keys("ways"))[0].unflatten(0, paths.shape[:2]))
            judged = [ask(ends, keys=keys("judge", draw))[1] for draw in range(self.evaluations)]
            wrong.append(torch.stack(judged).mean(0))
        cosine = cosine_similarity(moved[:, -1].flatten(2), moved[-1, -1].flatten(1), dim=-1)
        flat = seen_flat(paths, self.asked.projection, self.asked.seed)
        rows = {"flat": flat.movedim(2, 0), "plane": on_plane(moved, axes).movedim(2, 0), "cosine": cosine.T}
        rows |= {name: torch.stack(values).movedim(-1, 0) for name, values in
                 (("loss", loss), ("wrong", wrong), ("map", maps))}  # fmt: skip
        return {name: values.tolist() for name, values in rows.items()}


def save(folder: Path, summary: dict[str, Any], title: str) -> str:
    """Write landscape.json and both figures; returns the table."""
    table, means = landscape_table(summary)
    write_whole(folder / "landscape.json", (json.dumps(means | summary, indent=1) + "\n").encode())
    for name, draw in (("landscape.png", landscape_figure), ("trajectories.png", trajectories_figure)):
        with beside(name):
            save_figure(draw(summary, title), folder / name)
    return table
