"""Is the expected reconstruction error smaller for clean than for attacked images, and does purification lower it?

Reference: Hoang et al. (2026), PurSAMERE, section 3.2: "typically smaller for in-distribution inputs and larger for
out-of-distribution or adversarial inputs".

    at every level sigma:  R(x; sigma) of clean, attacked and purified attacked images, the same draws for all of them
    random image: the clean one, every pixel changed as far as by the attack, but up or down by chance
    share of images where R(attacked) > R(clean), with its Wilson interval; Wilcoxon's signed-rank test of the pairs
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from lit_pursamere.attacks import Attack
from lit_pursamere.audit.base import Answer
from lit_pursamere.audit.similarity_table import mean_interval
from lit_pursamere.defense import Defense
from lit_pursamere.diffusion import NoiseLevels, SeededNoise, decreasing_levels, expected_reconstruction_error
from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.progress import Progress
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.report.statistics import Accuracy
from lit_pursamere.report.style import CYCLE, GREY, MARKERS, caption, decorate, grid_lines, legend, new_figure
from lit_pursamere.store.records import CLEAN
from lit_pursamere.walk.base import Walk
from lit_pursamere.walk.kept import Kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Pairs", "ReconstructionErrors", "error_figure", "signed_rank"]

HEAD = ("sigma", "pair", "mean of the first", "of the second", "first larger, % of images", "p of the signed ranks")


class Pairs(NamedTuple):
    """R of the same images in two versions, (B,) each."""

    first: Tensor
    second: Tensor

    @property
    def larger(self) -> Accuracy:
        """On how many images the first is larger."""
        return Accuracy(float((self.first > self.second).sum()), len(self.first))


@dataclass(frozen=True)
class ReconstructionErrors(Walk):
    """R of clean, attacked and purified images over the noise levels, paired, by the score model of the purifier.

    Args:
        attack: Name of the attack among the configured ones (None: the last one that sees the purifier).
        broken: Whether to look only at images on which the purifier that the attack looks at ends wrong.
        sigmas: Noise levels in pixel units (None: those of the purifier).
        draws: Draws by which R is estimated at every level, the same for all images.
        table: Seed of these draws.

    Raises:
        ValueError: If there is no such attack, fewer than two images, or the purifier has no score model or no levels.
    """

    sigmas: NoiseLevels | list[float] | None = None
    draws: int = 16
    table: int = 1

    least = {"draws": 1, "table": 0}

    @property
    def name(self) -> str:
        return "reconstruction-errors"

    @property
    def pairs(self) -> dict[str, tuple[str, str]]:
        """The versions of an image that are compared."""
        pairs = (("attacked", "clean"), ("attacked", "purified"), ("purified", "clean"), ("attacked", "random"))
        return {", ".join(pair): pair for pair in pairs}

    def run(self, kept: Kept, folder: Path) -> Answer:
        model, levels = self.levels(kept.defense)
        attack, kept = self.chosen(kept, least=2)
        purified = kept.walk(next(iter(kept.purifiers)), attack, lambda k, state: state)[-1]
        clean, attacked = kept.images[CLEAN], kept.images[attack]
        signs = SeededNoise(self.table).draw("forward", 0, len(clean), clean)[:, 0].sign()
        random = (clean + signs * (attacked - clean)).clamp(0, 1)
        versions = {"clean": clean, "attacked": attacked, "purified": purified, "random": random}
        found = self.errors(model, levels, versions, kept)
        pairs = {(sigma, name): Pairs(errors[a], errors[b])
                 for sigma, errors in found.items() for name, (a, b) in self.pairs.items()}  # fmt: skip
        self.save(kept, folder, attack=attack, levels=[
            {"sigma": sigma, "pair": name, "first": intervals(pair.first), "second": intervals(pair.second),
             "larger": pair.larger.correct, "wilson": pair.larger.interval, "p": signed_rank(*pair)}
            for (sigma, name), pair in pairs.items()
        ])  # fmt: skip
        with beside(f"{self.name}.png"):
            about = f"{kept.data}, {attack}; {len(kept.y)} images, {self.draws} draws"
            save_figure(error_figure(pairs, about), folder / f"{self.name}.png")
        rows = [(f"{sigma:.3g}", name, f"{pair.first.mean():.2f}", f"{pair.second.mean():.2f}", pair.larger,
                 f"{signed_rank(*pair):.1e}") for (sigma, name), pair in pairs.items()]  # fmt: skip
        shares = [pair.larger.value for (_, name), pair in pairs.items() if name == "attacked, clean"]
        told = f"R is larger on attacked than on clean images for {100 * min(shares):.0f} to {100 * max(shares):.0f} %"
        return Answer(markdown_table(HEAD, rows), f"{told}, by the level")

    def check(self, defense: Defense, attacks: Mapping[str, Attack]) -> None:
        super().check(defense, attacks)
        self.levels(defense)

    def levels(self, defense: Defense) -> tuple[Any, tuple[float, ...]]:
        """The score model and the noise levels."""
        purifier = defense.purifier
        model = dict(purifier.named_children()).get("score_model")
        if model is None:
            raise ValueError(f"{type(purifier).__name__} has no score model whose R could be asked for")
        if self.sigmas is None and not hasattr(purifier, "sigmas"):
            raise ValueError(f"{type(purifier).__name__} has no noise levels; name some with --walk.sigmas")
        own = [sigma for sigma in getattr(purifier, "sigmas", ()) if sigma > 0]
        return model, decreasing_levels(type(self).__name__, own if self.sigmas is None else self.sigmas)

    @torch.no_grad()
    def errors(
        self, model: Any, levels: tuple[float, ...], versions: Mapping[str, Tensor], kept: Kept
    ) -> dict[float, dict[str, Tensor]]:
        """R of every version of the images at every level, (B,) on the CPU."""
        noise, found = SeededNoise(self.table), {}
        device = kept.images[CLEAN].device
        with Progress("R", "level", len(levels), kept.hidden) as progress:
            for k, sigma in enumerate(levels, start=1):
                xi = noise.draw("level", k, self.draws, kept.images[CLEAN])
                found[sigma] = {
                    name: torch.cat([
                        expected_reconstruction_error(model, part.to(device), sigma, xi).cpu()
                        for part in images.split(max(1, kept.batch // self.draws))
                    ]).double()
                    for name, images in versions.items()
                }  # fmt: skip
                progress.advance(1)
        return found


def signed_rank(first: Tensor, second: Tensor) -> float:
    """Two-sided p of Wilcoxon's signed-rank test of pairs (B,); 1 where no pair differs."""
    from scipy.stats import wilcoxon  # heavy

    differences = (first - second).numpy()
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def intervals(values: Tensor) -> list[float]:
    """Mean over the images and its 95 % interval."""
    return [float(f"{number:.6g}") for number in mean_interval(values.tolist())]


def error_figure(pairs: Mapping[tuple[float, str], Pairs], about: str) -> Figure:
    """Draw, against the noise level, by how much the first R of a pair is larger on average, and on how many images.

    Args:
        pairs: By level and name of the pair.
        about: Which images they are.
    """
    names = list(dict.fromkeys(name for _, name in pairs))
    figure = new_figure(3.0)
    left, right = figure.subplots(1, 2)
    decorate(left, "Mean difference of $R$", "noise level $\\sigma$", "$R$(first) $-$ $R$(second)")
    decorate(right, "First larger", "noise level $\\sigma$", "% of images")
    for name, colour, marker in zip(names, CYCLE, MARKERS, strict=False):
        mine = {sigma: pair for (sigma, other), pair in pairs.items() if other == name}
        mean, low, high = zip(*(mean_interval((p.first - p.second).tolist()) for p in mine.values()), strict=True)
        style: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 3.5, "linewidth": 1.4}
        left.fill_between(list(mine), low, high, color=colour, alpha=0.15, linewidth=0)
        left.plot(list(mine), mean, **style, label=f"$R$: {name}")
        shares = [100 * pair.larger.value for pair in mine.values()]
        ends = [[100 * end for end in pair.larger.interval] for pair in mine.values()]
        right.fill_between(list(mine), *zip(*ends, strict=True), color=colour, alpha=0.15, linewidth=0)
        right.plot(list(mine), shares, **style)
    left.axhline(0, color=GREY, linewidth=0.7)
    right.axhline(50, color=GREY, linewidth=0.7)
    right.set(ylim=(0, 102))
    levels = list(dict.fromkeys(sigma for sigma, _ in pairs))
    ticks = levels[:: -(-len(levels) // 7)]
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{sigma:.2g}" for sigma in ticks])
        axes.minorticks_off()
        grid_lines(axes)
    legend(figure, 3)
    caption(figure, f"{shown(about, 'figure')}; bands: 95 % intervals")
    return figure
