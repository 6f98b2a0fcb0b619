"""Reports written down: Markdown to read, CSV with every semantics, LaTeX for a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.notes import notes
from lit_pursamere.report.report import Line, Report, make_report
from lit_pursamere.report.statistics import INTERVALS
from lit_pursamere.report.verdicts import components, other_reading

__all__ = ["FORMATS", "as_csv", "as_latex", "as_markdown", "save_report", "write_report"]

CSV_HEAD = (
    "run", "dataset", "system", "attack", "semantics", "headline", "correct", "n", "accuracy", "low", "high",
    "interval", "seconds", "published", "published_in", "doubtful", "rejected", "auc",
)  # fmt: skip


def cells(report: Report) -> tuple[list[str], list[list[str]], list[str]]:
    """Head, body and footnotes of the table as text; columns that would be empty are left out."""
    doubts = list(dict.fromkeys(line.doubt for line in report.lines if line.doubt))
    successes = {run.success for run in report.runs}

    def reading(column: str, line: Line) -> str:
        semantics = beside(line).get(column)
        return line.accuracies[semantics].text(report.interval) if semantics else ""

    def paper(line: Line) -> str:
        if line.paper_value is None:
            return ""
        return f"{line.paper_value:g} ({line.paper_label})" + (
            f" [{doubts.index(line.doubt) + 1}]" if line.doubt else ""
        )

    columns: dict[str, Callable[[Line], str]] = {
        "run": lambda line: line.run.label if report.several else "",
        "system": lambda line: line.system,
        "attack": lambda line: line.attack,
        f"accuracy ({successes.pop()})" if len(successes) == 1 else "accuracy": lambda line: line.headline.text(
            report.interval
        ),
        **{column: partial(reading, column) for run in report.runs for column in columns_beside(run.success)},
        "rejected": lambda line: line.detection.rejected.text(report.interval) if line.detection else "",
        "AUC": lambda line: f"{line.detection.auc:.3f}" if line.detection and line.detection.auc is not None else "",
        "n": lambda line: str(line.headline.n),
        "s/image": lambda line: "" if line.seconds is None else f"{line.seconds:.2g}",
        "published": paper,
    }
    filled = {name: [text(line) for line in report.lines] for name, text in columns.items()}
    filled = {name: texts for name, texts in filled.items() if any(texts)}
    return list(filled), [list(row) for row in zip(*filled.values(), strict=True)], doubts


def columns_beside(success: str) -> tuple[str, ...]:
    """Semantics beside the headline: at the last iterate, and both with rejected images counted the other way."""
    last = f"last{components(success)[2]}"
    return last, other_reading(success), other_reading(last)


def beside(line: Line) -> dict[str, str]:
    """What a line shows in these columns, as far as it is something new: semantics that were judged, by column."""
    found: dict[str, str] = {}
    for column in columns_beside(line.run.success):
        if (semantics := line.nearest(column)) not in (line.semantics, *found.values()):
            found[column] = semantics
    return found


def as_markdown(report: Report) -> str:
    """Write an aligned Markdown table with its notes."""
    head, body, doubts = cells(report)
    footnotes = [f"[{number}] Doubtful: {doubt}." for number, doubt in enumerate(doubts, start=1)]
    # A blank line between notes keeps them apart once they are rendered.
    below = [shown(note, "markdown") for note in [*notes(report), *footnotes]]
    return markdown_table(head, body) + "\n" + "\n\n".join(below) + "\n"


def as_latex(report: Report) -> str:
    """Write a LaTeX table (packages booktabs and graphicx) with its notes as caption and footnotes below."""
    head, body, doubts = cells(report)
    group = head.index("attack")  # a rule wherever the run or the system changes
    footnotes = [f"[{number}] Doubtful: {doubt}." for number, doubt in enumerate(doubts, start=1)]
    return latex_table(head, body, group, " ".join(notes(report)), footnotes)


def latex_table(head: list[str], body: list[list[str]], group: int, caption: str, footnotes: list[str]) -> str:
    """Write a LaTeX table with a rule wherever one of the first `group` cells changes (0: below the head only)."""
    lines = [_latex_row(head)]
    for before, row in zip([None, *body], body, strict=False):
        if before is None or before[:group] != row[:group]:
            lines.append(r"\midrule")
        lines.append(_latex_row(row))
    parts = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_latex(caption.replace('`', ''))}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{'l' * len(head)}}}",
        r"\toprule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par{{\footnotesize {_latex(footnote)}}}" for footnote in footnotes),
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def _latex(text: str) -> str:
    return shown(text, "latex")


def _latex_row(row: list[str]) -> str:
    first = _latex(row[0])
    # Behind the \\ of the line above, [ would begin an argument.
    first = f"{{[}}{first[1:]}" if first.startswith("[") else first
    return " & ".join([first, *map(_latex, row[1:])]) + r" \\"


def as_csv(report: Report) -> str:
    """Write a line for every run, system, attack and semantics; accuracies in [0, 1], published ones in %."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_HEAD, lineterminator="\n")
    writer.writeheader()
    for line in report.lines:
        for semantics, cell in line.accuracies.items():
            low, high = INTERVALS[report.interval](cell.correct, cell.n)
            known = line.paper_value is not None
            writer.writerow(
                {
                    "run": shown(line.run.label, "csv"),
                    "dataset": shown(line.run.dataset, "csv"),
                    "system": shown(line.system, "csv"),
                    "attack": shown(line.attack, "csv"),
                    "semantics": semantics,
                    "headline": "yes" if semantics == line.semantics else "no",
                    "correct": f"{cell.correct:.10g}",
                    "n": cell.n,
                    "accuracy": f"{cell.value:.6f}",
                    "low": f"{low:.6f}",
                    "high": f"{high:.6f}",
                    "interval": report.interval,
                    "seconds": "" if line.seconds is None else f"{line.seconds:.6g}",
                    "published": f"{line.paper_value:g}" if known else "",
                    "published_in": line.paper_label if known else "",
                    "doubtful": line.doubt,
                    "rejected": f"{line.detection.rejected.value:.6f}" if line.detection else "",
                    "auc": f"{line.detection.auc:.6f}" if line.detection and line.detection.auc is not None else "",
                }
            )
    return out.getvalue()


FORMATS: dict[str, tuple[str, Callable[[Report], str]]] = {
    "markdown": ("report.md", as_markdown),
    "csv": ("report.csv", as_csv),
    "latex": ("report.tex", as_latex),
}


def save_report(report: Report, folder: str | Path) -> None:
    """Write report.md, report.csv and report.tex into a folder, which is made if need be."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in FORMATS.values():
        (folder / name).write_text(write(report), encoding="utf-8")


def write_report(folder: str | Path) -> str:
    """Write the report of one evaluation beside its records; returns the Markdown.

    Raises:
        FileNotFoundError: If the folder holds no records.
        ValueError: If records or manifest are damaged.
    """
    report = make_report([folder])
    save_report(report, folder)
    return as_markdown(report)
