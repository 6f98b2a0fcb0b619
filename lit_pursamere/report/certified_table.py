"""Certificates as a table, as CSV, and as files beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.certified import Attacked, Certified, radii_of
from lit_pursamere.report.certified_figure import certified_figure
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.report.saving import save
from lit_pursamere.report.statistics import INTERVALS, Accuracy

__all__ = ["FORMATS", "as_csv", "as_markdown", "save_certified"]

NAME = "certified"  # of the files


def as_markdown(
    runs: Sequence[Certified], attacked: Sequence[Attacked] = (), interval: str = "wilson"
) -> str:  # fmt: skip
    """Write a line per noise level and attacked system, a column per radius, and notes."""
    radii = radii_of(runs, attacked)
    head = ["", "n", "clean", "abstained", "mean radius", *(f"r = {radius:g}" for radius in radii)]
    body = []
    for run in runs:
        for sigma in run.sigmas:
            name = f"certified, sigma {sigma:g}" + (f" ({run.label})" if len(runs) > 1 else "")
            cells = [run.accuracy(sigma, radius).text(interval) for radius in radii]
            body.append([
                name, len(run.of(sigma)), run.clean(sigma).text(interval), run.abstained(sigma),
                f"{run.mean_radius(sigma):.3f}", *cells,
            ])  # fmt: skip
    for one in attacked:
        points = {round(eps, 6): accuracy for eps, accuracy in one.points.items()}
        cells = [points[radius].text(interval) if radius in points else "" for radius in radii]
        level = "" if one.sigma is None else f", sigma {one.sigma:g}"
        name = f"attacked: {one.system}{level} ({one.run.label})"
        counts = [accuracy.n for accuracy in points.values()]
        n = " to ".join(map(str, dict.fromkeys((min(counts), max(counts)))))
        body.append([name, n, "", "", "", *cells])
    notes = "\n\n".join(shown(note, "markdown") for note in notes_of(runs, attacked, interval))
    return f"{markdown_table(head, body)}\n{notes}\n"


def notes_of(runs: Sequence[Certified], attacked: Sequence[Attacked], interval: str) -> Iterator[str]:
    """What a reader must know of the numbers."""
    for run in runs:
        asked = run.settings
        of = f"{run.label}: " if len(runs) > 1 else ""
        yield (
            f"{of}{run.manifest['data']}, {run.images} images; n0 = {asked['n0']:,}, n = {asked['n']:,}, alpha = "
            f"{asked['alpha']:g} for each certificate; radii in l2, pixels in [0, 1]"
        )
        if (lacking := run.images * len(asked["sigmas"]) - len(run.rows)) > 0:
            yield f"{of}incomplete: {lacking:,} certificates are still to come"
    yield (
        f"accuracies in % with 95 % {interval} intervals over the images; r: the smoothed classifier gives the true "
        "class to everything within r; clean: what it answers to the image itself, abstaining counts as wrong"
    )
    for one in attacked:
        if any(one.run.manifest["images"] != run.manifest["images"] for run in runs):
            yield f"{one.run.label}: attacked on other images than were certified"
        for run, sigma, eps, floor in contradictions(runs, one):
            yield (
                f"{one.run.label}: at {eps:g} attacks leave {one.points[eps]} %, below the {floor} % that {run.label} "
                f"certifies at sigma {sigma:g}: look whether its verdicts are votes of enough copies"
            )


def contradictions(runs: Sequence[Certified], one: Attacked) -> Iterator[tuple[Certified, float, float, Accuracy]]:
    """Budgets at which attacks on the same images and noise level leave less than is certified."""
    for run in runs:
        if one.sigma in run.sigmas and one.run.manifest["images"] == run.manifest["images"]:
            for eps, accuracy in one.points.items():
                floor = run.accuracy(one.sigma or 0.0, eps)
                if accuracy.value < floor.value and accuracy.n == floor.n:
                    yield run, one.sigma or 0.0, eps, floor


def as_csv(runs: Sequence[Certified], attacked: Sequence[Attacked] = (), interval: str = "wilson") -> str:
    """Write a line per noise level and radius, every radius at which the curve falls; accuracies in [0, 1]."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("run", "kind", "sigma", "radius", "correct", "n", "accuracy", "low", "high"))

    def line(run: str, kind: str, sigma: float | None, radius: float, accuracy: Accuracy) -> None:
        ends = (f"{end:.10g}" for end in INTERVALS[interval](accuracy.correct, accuracy.n))
        level = "" if sigma is None else f"{sigma:g}"
        numbers = f"{accuracy.correct:.10g}", accuracy.n, f"{accuracy.value:.10g}"
        writer.writerow((shown(run, "csv"), kind, level, f"{radius:.10g}", *numbers, *ends))

    for run in runs:
        for sigma in run.sigmas:
            line(run.label, "clean", sigma, 0, run.clean(sigma))
            line(run.label, "abstained", sigma, 0, Accuracy(run.abstained(sigma), len(run.of(sigma))))
            falls = {row["radius"] for row in run.of(sigma) if row["radius"] is not None}
            for radius in sorted({*falls, *radii_of([run], attacked)}):
                line(run.label, "certified", sigma, radius, run.accuracy(sigma, radius))
    for one in attacked:
        for eps, accuracy in one.points.items():
            line(f"{one.run.label}, {one.system}", "attacked", one.sigma, eps, accuracy)
    return out.getvalue()


FORMATS = {"markdown": ("md", as_markdown), "csv": ("csv", as_csv)}


def save_certified(
    runs: Sequence[Certified], attacked: Sequence[Attacked], folder: Path, interval: str = "wilson"
) -> None:
    """Write certified.md, certified.csv and certified.png into a folder, which is made if need be."""
    for suffix, write in FORMATS.values():
        save(write(runs, attacked, interval), folder / f"{NAME}.{suffix}")
    with beside(f"{NAME}.png"):
        save_figure(certified_figure(runs, attacked, interval), folder / f"{NAME}.png")
