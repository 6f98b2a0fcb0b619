"""Reports written down: Markdown to read, CSV with every semantics, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.report import Report, make_report
from lit_pursamere.store.atomic import write_whole

__all__ = ["FORMATS", "as_csv", "as_latex", "as_markdown", "save_report", "write_report"]


def as_markdown(report: Report) -> str:
    """Write an aligned Markdown table with its notes."""
    head, body = _cells(report)
    table = markdown_table(head, body) + "\n" if body else ""
    # A blank line between notes keeps them apart once they are rendered.
    return table + "\n\n".join(shown(note, "markdown") for note in [*report.notes, *_footnotes(report)]) + "\n"


def as_latex(report: Report) -> str:
    """Write a LaTeX table (packages booktabs and graphicx); the first note is its caption, the others stand below."""
    head, body = _cells(report)
    caption, *below = [*report.notes, *_footnotes(report)]
    group = sum(name in report.ruled for name in head)
    lines = [_latex_row(head)]
    for before, row in zip([None, *body], body, strict=False):
        if before is None or before[:group] != row[:group]:
            lines.append(r"\midrule")
        lines.append(_latex_row(row))
    parts = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex_text(caption)}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(head)}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par{{\footnotesize {_latex_text(note)}}}" for note in below),
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def as_csv(report: Report) -> str:
    """Write a line for every run, system, attack and semantics; accuracies in [0, 1], published ones in %."""
    out = io.StringIO()
    writer = csv.DictWriter(out, report.csv_head, lineterminator="\n")
    writer.writeheader()
    for line in report.lines:
        for semantics in line.accuracies:
            writer.writerow({name: shown(value, "csv") for name, value in report.record(line, semantics).items()})
    return out.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "markdown": ("md", as_markdown),
    "csv": ("csv", as_csv),
    "latex": ("tex", as_latex),
}


def save_report(report: Report, folder: str | Path) -> None:
    """Write report.md, report.csv and report.tex, or comparison.*, into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, write in FORMATS.values():
        write_whole(folder / f"{report.name}.{suffix}", write(report).encode())  # in place of a link, not through it


def write_report(folder: str | Path) -> str:
    """Write the report of one evaluation beside its records; returns the Markdown.

    Raises:
        FileNotFoundError: If the folder holds no records.
        ValueError: If records or manifest are damaged.
    """
    report = make_report([folder])
    save_report(report, folder)
    return as_markdown(report)


def _cells(report: Report) -> tuple[list[str], list[tuple[str, ...]]]:
    """Head and body of the table; columns that would be empty are left out."""
    filled = {name: texts for name, texts in report.columns.items() if any(texts)}
    return list(filled), list(zip(*filled.values(), strict=True))


def _footnotes(report: Report) -> list[str]:
    return [f"[{number}] {text}" for number, text in enumerate(report.footnotes, start=1)]


def _latex_text(text: str) -> str:
    return shown(text.replace("`", ""), "latex")


def _latex_row(row: list[str] | tuple[str, ...]) -> str:
    first, *others = [shown(cell, "latex") for cell in row]
    # Behind the \\ of the line above, [ would begin an argument.
    first = f"{{[}}{first[1:]}" if first.startswith("[") else first
    return " & ".join([first, *others]) + r" \\"
