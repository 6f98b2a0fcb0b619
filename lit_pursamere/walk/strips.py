"""Strips of pictures: an image, the image attacked, and what the purifier has made of it after some steps.

Reference: Srinivasan et al. (2021), MALADE, Figures 3 and C.15 to C.18: after 1, 10 and 25 steps, over the budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lit_pursamere.audit.base import Answer
from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.drawing import save_figure
from lit_pursamere.report.pictures import draw_picture
from lit_pursamere.report.style import INK, RIGHT, SMALL, WRONG, caption, new_figure
from lit_pursamere.store.records import CLEAN
from lit_pursamere.walk.base import Walk
from lit_pursamere.walk.kept import Kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Strip", "Strips", "strip_figure"]

MOST = 24  # rows of a page


class Strip(NamedTuple):
    """A row: its label, and pictures (C, H, W) by heading with the probabilities of the classes (K,) and the class."""

    label: str
    pictures: dict[str, Tensor]
    probabilities: dict[str, Tensor]
    y: int


@dataclass(frozen=True)
class Strips(Walk):
    """Pictures of the walk after some steps, a row for every image, attack and purifier (its own, and its surrogate).

    Args:
        attack: Name of the attack among the configured ones (None: all of them, in the order of the configuration).
        broken: Whether to take images on which the purifier that the last of these attacks looks at ends wrong.
        count: How many images: the first ones.
        steps: After which steps; the first picture of a row is clean, the second attacked, the last purified.

    Raises:
        ValueError: If there is no such attack, fewer images, or more than 24 rows; or a step is below 1.
    """

    count: int = 1
    steps: tuple[int, ...] = (1, 10, 25)

    least = {"count": 1}

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(step < 1 for step in self.steps):
            raise ValueError(f"Strips needs steps of at least 1; got {list(self.steps)}")

    def run(self, kept: Kept, folder: Path) -> Answer:
        attack, kept = self.chosen(kept, self.count)
        attacks = [attack] if self.attack is not None else list(kept.attacks)
        rows = self.count * len(attacks) * len(kept.purifiers)
        if rows > MOST:
            raise ValueError(f"{rows} strips do not fit on a page of {MOST}; lower --walk.count, or name one attack")
        kept = kept.only(torch.arange(self.count))
        found = [self.strip(kept, i, attack, name)
                 for i in range(self.count) for attack in attacks for name in kept.purifiers]  # fmt: skip
        save_figure(strip_figure(found, kept.class_names, kept.data), folder / f"{self.name}.png")
        read = [{heading: reading(p, strip.y, kept.class_names) for heading, p in strip.probabilities.items()}
                for strip in found]  # fmt: skip
        self.save(kept, folder, index=kept.index.tolist(), strips=[
            {"label": strip.label, **row} for strip, row in zip(found, read, strict=True)
        ])  # fmt: skip
        head = list(dict.fromkeys(heading for row in read for heading in row))
        body = [(strip.label, *(row.get(heading, "") for heading in head))
                for strip, row in zip(found, read, strict=True)]  # fmt: skip
        right = sum(strip.probabilities["purified"].argmax() == strip.y for strip in found)
        return Answer(markdown_table(("strip", *head), body), f"{right} of {len(found)} end right")

    @torch.no_grad()
    def strip(self, kept: Kept, place: int, attack: str, name: str) -> Strip:
        """The row of an image."""
        one = kept.only(torch.tensor([place]))
        states = one.walk(name, attack, lambda k, state: state)
        shown_steps = [step for step in self.steps if step < len(states) - 1]
        pictures = {"clean": one.images[CLEAN], "attacked": states[0],
                    **{f"step {step}": states[step] for step in shown_steps}, "purified": states[-1]}  # fmt: skip
        device = one.images[CLEAN].device
        said = {key: one.defense.classify(image.to(device)).softmax(1)[0].cpu() for key, image in pictures.items()}
        parts = (attack, *([name] if len(kept.purifiers) > 1 else []))
        flat = {key: image[0].float().cpu() for key, image in pictures.items()}
        return Strip(", ".join(parts), flat, said, int(one.y))


def reading(probabilities: Tensor, y: int, class_names: Sequence[str]) -> str:
    """The probability of the true class, and the likeliest other one with its own: "6 0.12, 8 0.85"."""
    others = probabilities.clone()
    others[y] = -1
    best = int(others.argmax())
    names = [shown(class_names[k], "figure") if k < len(class_names) else str(k) for k in (y, best)]
    return f"{names[0]} {probabilities[y]:.2f}, {names[1]} {probabilities[best]:.2f}"


def strip_figure(strips: Sequence[Strip], class_names: Sequence[str], about: str) -> Figure:
    """Draw strips below each other; above a picture the true class and the best other one, green where it wins.

    Args:
        strips: At least one.
        class_names: Names of the classes.
        about: Which images they are.
    """
    heads = list(dict.fromkeys(heading for strip in strips for heading in strip.pictures if heading != "purified"))
    heads = ["clean", "attacked", *sorted(heads[2:], key=lambda head: int(head.split()[1])), "purified"]
    figure = new_figure(0.5 + 1.2 * len(strips))
    grid: Any = figure.subplots(len(strips), len(heads), squeeze=False)
    for row, strip in zip(grid, strips, strict=True):
        for axes, head in zip(row, heads, strict=True):
            axes.set(xticks=[], yticks=[])
            if head not in strip.pictures:  # a walk of fewer steps than that of another row
                axes.set_frame_on(False)
                continue
            draw_picture(axes, strip.pictures[head])
            p = strip.probabilities[head]
            colour = RIGHT if int(p.argmax()) == strip.y else WRONG
            axes.set_title(reading(p, strip.y, class_names), fontsize=SMALL - 1, color=colour, pad=3)
        label = shown(strip.label, "figure").replace(", ", "\n")
        row[0].set_ylabel(label, fontsize=SMALL, color=INK)
    for axes, head in zip(grid[-1], heads, strict=True):
        axes.set_xlabel(head, fontsize=SMALL, color=INK, labelpad=2)
    caption(figure, f"{shown(about, 'figure')}; above: probability of the true class, and of the likeliest other one")
    return figure
