"""How sure the classifier is on the way, of the true class and of the one that the attack leads to.

Reference: Zhang et al. (2024), COUP, Figure 2a: the expectation of p(y | x_k) over images, for the purifier with and
without guidance. There the attack looks at the one without: give it as the defence's surrogate.

    adversarial class of an image = its likeliest wrong class where the walk of the attacked purifier ends
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lit_pursamere.audit.base import Answer
from lit_pursamere.audit.similarity_table import mean_interval
from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.style import CYCLE, caption, decorate, grid_lines, legend, new_figure
from lit_pursamere.store.records import CLEAN
from lit_pursamere.walk.base import Walk
from lit_pursamere.walk.kept import Kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Confidence", "Curve", "confidence_figure"]

HEAD = ("purifier", "images", "p(true) before", "lowest", "at the end", "p(adversarial) before", "at the end",
        "right at the end")  # fmt: skip


class Curve(NamedTuple):
    """What the classifier says on the way: probabilities (steps + 1, B), and whether it is right at the end, (B,)."""

    true: Tensor
    adversarial: Tensor
    right: Tensor


@dataclass(frozen=True)
class Confidence(Walk):
    """Confidence of the classifier after every step, on clean and attacked images, of the purifier and its surrogate.

    Args:
        attack: Name of the attack among the configured ones (None: the last one that sees the purifier).
        broken: Whether to look only at images on which the purifier that the attack looks at ends wrong, as COUP does.

    Raises:
        ValueError: If there is no such attack, or fewer than two images.
    """

    def run(self, kept: Kept, folder: Path) -> Answer:
        attack, kept = self.chosen(kept, least=2)
        curves = confidences(kept, attack)
        n = len(kept.y)
        means = {
            f"{name}, {images}": {
                "right": float(curve.right.sum()),
                **{what: intervals(values) for what, values in zip(("true", "adversarial"), curve[:2], strict=True)},
            }
            for (name, images), curve in curves.items()
        }
        self.save(kept, folder, attack=attack, columns=["mean", "low", "high"], curves=means)
        with beside(f"{self.name}.png"):
            which = f"{n} images that {attack} breaks" if self.broken else f"{n} images"
            save_figure(confidence_figure(curves, f"{kept.data}; {which}"), folder / f"{self.name}.png")
        rows = [(*names, *cells(curve)) for names, curve in curves.items()]
        ends = [f"{name} {curve.true[-1].mean():.3f}" for (name, images), curve in curves.items() if images != CLEAN]
        return Answer(markdown_table(HEAD, rows), f"p(true) at the end under {attack}: {', '.join(ends)}")


def confidences(kept: Kept, attack: str) -> dict[tuple[str, str], Curve]:
    """Curves by purifier and images (`clean`, or the name of the attack)."""
    y = kept.y.cpu()
    found = {(name, images): kept.probabilities(name, images)
             for images in (CLEAN, attack) for name in kept.purifiers}  # fmt: skip
    end = found[kept.attacked(attack), attack][-1].clone()
    end[torch.arange(len(y)), y] = -1
    wrong = end.argmax(1)
    each = torch.arange(len(y))
    return {key: Curve(p[:, each, y], p[:, each, wrong], p[-1].argmax(1) == y) for key, p in found.items()}


def intervals(values: Tensor) -> list[list[float]]:
    """Mean over the images and its 95 % interval, after every step."""
    return [[float(f"{number:.6g}") for number in mean_interval(row)] for row in values.tolist()]


def cells(curve: Curve) -> list[Any]:
    """The numbers of a row of the table."""
    lowest = int(curve.true.mean(1).argmin())
    told = [curve.true[0], curve.true[lowest], curve.true[-1], curve.adversarial[0], curve.adversarial[-1]]
    texts = ["{:.3f} [{:.3f}, {:.3f}]".format(*mean_interval(values.tolist())) for values in told]
    texts[1] += f" after {lowest}"
    return [*texts, Accuracy(float(curve.right.sum()), len(curve.right))]


def confidence_figure(curves: Mapping[tuple[str, str], Curve], about: str) -> Figure:
    """Draw mean confidences against the steps, a panel for clean and for attacked images.

    Args:
        curves: By purifier and images.
        about: Which images they are.
    """
    panels: Sequence[str] = list(dict.fromkeys(images for _, images in curves))
    purifiers = list(dict.fromkeys(name for name, _ in curves))
    figure = new_figure(3.0)
    for axes, images in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        decorate(axes, shown(images, "figure"), "steps of the purification", "confidence")
        for name, colour in zip(purifiers, CYCLE, strict=False):
            curve = curves[name, images]
            for what, values, dashes in (("true", curve.true, "-"), ("adversarial", curve.adversarial, (0, (4, 2)))):
                mean, low, high = zip(*intervals(values), strict=True)
                axes.fill_between(range(len(mean)), low, high, color=colour, alpha=0.13, linewidth=0)
                label = shown(f"{name}: {what} class", "figure")
                axes.plot(range(len(mean)), mean, color=colour, linestyle=dashes, linewidth=1.5, label=label)
        axes.set(ylim=(-0.02, 1.02), xlim=(0, None))
        grid_lines(axes)
        axes.label_outer()
    legend(figure, 2)
    caption(figure, f"{shown(about, 'figure')}; bands: 95 % intervals of the mean")
    return figure
