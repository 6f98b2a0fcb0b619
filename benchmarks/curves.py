"""What trainings reached at equal computing time: a table and a plot from the event files of their TensorBoard logs.

    python benchmarks/curves.py runs/cifar10/*/logs --at 0.25 0.5 1 --figure psnr.png

Reads what `LitScoreModel` logs: `time/core_hours`, `val/psnr_...`. A value between two validations is interpolated; one
that lies beyond the last validation is left empty.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_pursamere.markdown import markdown_table
from lit_pursamere.report.style import CYCLE, DASHES, GREY, decorate, grid_lines, new_figure

PSNR = "val/psnr_"
FFDNET = {
    8: 35.57,
    15: 31.91,
    25: 29.04,
    50: 25.29,
    75: 23.26,
}  # its PSNR on the images of configs/cifar10/score_denoiser


class Curve(NamedTuple):
    """One training: hours (N,) of computing, the optimiser's steps (N,), and PSNR (N,) in dB by the noise in 255ths."""

    name: str
    hours: np.ndarray
    steps: np.ndarray
    psnr: dict[str, np.ndarray]

    def at(self, hours: float) -> dict[str, float]:
        """Values after so many hours; NaN where it did not run that long."""
        told = {"steps": self.steps, **self.psnr}
        return {name: float(np.interp(hours, self.hours, v, np.nan, np.nan)) for name, v in told.items()}


def main(args: Sequence[str] | None = None) -> list[Curve]:
    options = parse_arguments(args)
    curves = [read(folder, options.axis) for folder in options.logs]
    print("\n".join(table(curves, hours) for hours in options.at))
    if options.figure:
        draw(curves, options.figure, options.noise, options.axis)
    return curves


def parse_arguments(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, nargs="+", help="folders of event files")
    parser.add_argument("--at", type=float, nargs="*", default=[], help="hours at which to compare")
    parser.add_argument("--axis", choices=("core_hours", "hours"), default="core_hours")
    parser.add_argument("--figure", type=Path, help="PNG to draw")
    parser.add_argument("--noise", default="25", help="level of the figure, in 255ths of a pixel")
    return parser.parse_args(args)


def read(folder: Path, axis: str = "core_hours") -> Curve:
    """The curve in a folder of event files; a run that was killed and continued repeats steps, and the last counts.

    Raises:
        ValueError: If there is nothing to plot.
    """
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    tags = events.Tags()["scalars"]
    levels = sorted((tag.removeprefix(PSNR) for tag in tags if tag.startswith(PSNR)), key=float)
    if not levels or f"time/{axis}" not in tags:
        raise ValueError(f"no time/{axis} and {PSNR}... in {folder}; set model.psnr_at, and wait for a validation")
    hours = {event.step: event.value for event in events.Scalars(f"time/{axis}")}
    psnr = {level: {event.step: event.value for event in events.Scalars(PSNR + level)} for level in levels}
    steps = sorted(hours.keys() & set.intersection(*(set(values) for values in psnr.values())))
    name = folder.parent.name if folder.name == "logs" else folder.name
    return Curve(
        name,
        np.round([hours[step] for step in steps], 6),  # logged in single precision
        np.array(steps) + 1,
        {level: np.array([values[step] for step in steps]) for level, values in psnr.items()},
    )


def table(curves: Sequence[Curve], hours: float) -> str:
    """A Markdown table of all curves after so many hours, best at the middle level first."""
    levels = list(curves[0].psnr)
    rows = [(curve.name, curve.at(hours)) for curve in curves]
    rows.sort(key=lambda row: -np.nan_to_num(row[1].get(levels[len(levels) // 2], np.nan)))
    cells = [
        [name, "" if np.isnan(v["steps"]) else f"{v['steps']:,.0f}",
         *("" if np.isnan(v.get(level, np.nan)) else f"{v[level]:.2f}" for level in levels)]
        for name, v in rows
    ]  # fmt: skip
    return markdown_table([f"after {hours:g} hours", "steps", *levels], cells)


def draw(curves: Sequence[Curve], path: Path, level: str, axis: str) -> None:
    """Plot PSNR at one level against the hours, and FFDNet's as a line where it was measured."""
    figure = new_figure(3.2)
    axes = figure.subplots()
    for curve, colour, dashes in zip(curves, CYCLE, DASHES, strict=False):
        axes.plot(curve.hours, curve.psnr[level], color=colour, dashes=dashes, marker="o", ms=2.5, lw=1.3,
                  label=curve.name)  # fmt: skip
    if level.isdigit() and int(level) in FFDNET and "75" in curves[0].psnr:
        axes.axhline(FFDNET[int(level)], color=GREY, lw=1, ls=":", label="FFDNet")
    decorate(axes, f"Denoising at sigma {level}/255", axis.replace("_", " "), "PSNR in dB")
    grid_lines(axes)
    axes.legend(frameon=False, fontsize=7.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


if __name__ == "__main__":
    main()
