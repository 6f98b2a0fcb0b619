"""Reports as text: Markdown to read, CSV and JSON with every semantics, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from lit_pursamere import __version__
from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.report import Report
from lit_pursamere.report.runs import Run

__all__ = ["as_csv", "as_json", "as_latex", "as_markdown", "cells", "records", "remarks"]

STATED = ("data", "images", "systems", "weights", "attacks", "evaluations", "success", "seed")  # of a manifest, in JSON


def as_markdown(report: Report) -> str:
    """Write an aligned Markdown table with its notes, and a second one of pairs if there are any."""
    tables = [cells(columns) for columns in (report.columns, report.pair_columns)]
    texts = [markdown_table(head, body) for head, body in tables if body]
    # A blank line between notes keeps them apart once they are rendered.
    notes = "\n\n".join(shown(note, "markdown") for note in remarks(report))
    return "\n".join([*texts, f"{notes}\n"])


def as_latex(report: Report) -> str:
    """Write LaTeX tables (packages booktabs and graphicx); the first note is the caption, the others stand below."""
    caption, *below = [_latex_text(note) for note in remarks(report)]
    pairs = _latex_tabular(report.pair_columns, report.ruled) if report.pairs else []
    parts = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        *_latex_tabular(report.columns, report.ruled),
        *([r"\par\medskip", *pairs] if pairs else []),
        *(rf"\par{{\footnotesize {note}}}" for note in below),
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def _latex_tabular(columns: Mapping[str, list[str]], ruled: Sequence[str]) -> list[str]:
    """The lines of a table that is as wide as the text at most; a rule stands where a ruled column changes."""
    head, body = cells(columns)
    group = sum(name in ruled for name in head)
    lines = [_latex_row(head)]
    for before, row in zip([None, *body], body, strict=False):
        if before is None or before[:group] != row[:group]:
            lines.append(r"\midrule")
        lines.append(_latex_row(row))
    return [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(head)}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}}",
    ]


def as_csv(report: Report) -> str:
    """Write a line for every run, system, attack and semantics; accuracies in [0, 1], published ones in %."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*report.fields], lineterminator="\n")
    writer.writeheader()
    for record in records(report):
        writer.writerow({name: shown(_written(value), "csv") for name, value in record.items()})
    return out.getvalue()


def as_json(report: Report) -> str:
    """Write all of a report: `rows` as in the CSV, `paired`, notes, cautions, and what the `runs` are."""
    content = {
        "lit_pursamere": __version__,
        "runs": [_stated(run) for run in report.runs],
        "rows": records(report),
        "paired": [
            {**asdict(pair), "n": pair.n, "difference": pair.difference, "interval": pair.interval, "p": pair.p}
            for pair in report.pairs
        ],
        "notes": report.notes,
        "cautions": report.cautions,
        "footnotes": report.footnotes,
    }
    return json.dumps(content, indent=1) + "\n"


def records(report: Report) -> list[dict[str, object]]:
    """An entry for every line and semantics, with a value (None: there is none) for each of `report.fields`."""
    empty: dict[str, object] = dict.fromkeys(report.fields)
    return [empty | report.record(line, semantics) for line in report.lines for semantics in line.accuracies]


def remarks(report: Report) -> list[str]:
    """All that stands below a table: notes, cautions, footnotes."""
    footnotes = [f"[{number}] {text}" for number, text in enumerate(report.footnotes, start=1)]
    return [*report.notes, *report.cautions, *footnotes]


def _stated(run: Run) -> dict[str, object]:
    return {"run": run.label, **{name: run.manifest.get(name) for name in STATED}, "missing": sum(run.missing.values())}


def _written(value: object) -> str:
    """A value as a cell of a CSV."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.10g}" if isinstance(value, float) else "" if value is None else str(value)


def cells(columns: Mapping[str, list[str]]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Head and body of a table; columns that would be empty are left out."""
    filled = {name: texts for name, texts in columns.items() if any(texts)}
    return list(filled), list(zip(*filled.values(), strict=True))


def _latex_text(text: str) -> str:
    return shown(text.replace("`", ""), "latex")


def _latex_row(row: list[str] | tuple[str, ...]) -> str:
    first, *others = [shown(cell, "latex") for cell in row]
    # Behind the \\ of the line above, [ would begin an argument.
    first = f"{{[}}{first[1:]}" if first.startswith("[") else first
    return " & ".join([first, *others]) + r" \\"
