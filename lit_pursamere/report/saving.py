"""Reports into files: those that every test leaves beside its records, and those that are made when asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lit_pursamere.report.accuracy_figures import comparison_figure
from lit_pursamere.report.comparison import Comparison
from lit_pursamere.report.drawing import beside, save_figure
from lit_pursamere.report.formats import as_csv, as_json, as_latex, as_markdown
from lit_pursamere.report.html import as_html
from lit_pursamere.report.parquet import as_parquet
from lit_pursamere.report.places import swept
from lit_pursamere.report.report import Report
from lit_pursamere.report.setting_figures import setting_figure
from lit_pursamere.store.atomic import write_whole

__all__ = ["FORMATS", "ON_REQUEST", "save_comparison", "save_report"]

FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "markdown": ("md", as_markdown),
    "csv": ("csv", as_csv),
    "latex": ("tex", as_latex),
}
# Not written by every test: figures take seconds, which a verdict must not wait for, and Parquet a library.
ON_REQUEST: dict[str, tuple[str, Callable[[Report], str | bytes]]] = {
    "json": ("json", as_json),
    "html": ("html", as_html),
    "parquet": ("parquet", as_parquet),
}


def save_report(report: Report, folder: str | Path) -> None:
    """Write report.md, report.csv and report.tex, or comparison.*, into a folder, which is made if need be."""
    for suffix, write in FORMATS.values():
        save(write(report), Path(folder) / f"{report.name}.{suffix}")


def save(content: str | bytes, file: Path) -> Path:
    """Write a file, whole or not at all, into a folder, which is made if need be; in place of a link, not through it.

    Raises:
        OSError: If it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, content.encode() if isinstance(content, str) else content)
    return file


def save_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write comparison.md, comparison.csv, comparison.tex and figures of what there are records of into a folder.

    These are comparison.png and, of every setting that is swept, accuracy-SETTING.png.
    """
    save_report(comparison, folder)
    figures = {"comparison": partial(comparison_figure, comparison)}
    figures |= {
        f"accuracy-{axis}": partial(setting_figure, comparison, axis) for axis in swept(comparison.places.values())
    }
    for name, draw in figures.items():
        file = Path(folder) / f"{name}.png"
        with beside(str(file)):
            save_figure(draw(), file)
