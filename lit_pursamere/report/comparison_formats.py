"""Comparisons written down: Markdown to read, CSV with every semantics, LaTeX for a paper, and a figure."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from lit_pursamere.markdown import markdown_table
from lit_pursamere.names import shown
from lit_pursamere.report.comparison import Comparison, Contestant
from lit_pursamere.report.comparison_figure import comparison_figure
from lit_pursamere.report.comparison_notes import comparison_notes, paper_note
from lit_pursamere.report.formats import CSV_HEAD, as_csv, latex_table
from lit_pursamere.report.report import WORST, Report
from lit_pursamere.report.verdicts import CLEAN

__all__ = ["comparison_as_csv", "comparison_as_latex", "comparison_as_markdown", "save_comparison"]

COST_HEAD = (
    "missing",
    "calls",
    "gradients",
    "other_calls",
    "other_gradients",
    "seconds_per_purification",
    "deterministic",
)
NEAREST_HEAD = ("nearest_attack", "nearest_clean", "nearest_robust", "nearest_in", "nearest_differs")


def cells(comparison: Comparison) -> tuple[list[str], list[list[str]], list[str]]:
    """Head, body and footnotes of the table as text; columns that would be empty are left out."""
    quoted = [contestant for contestant in comparison.contestants if contestant.papers]
    footnotes = [f"[{i}] {paper_note(one.run.label, one.papers)}" for i, one in enumerate(quoted, start=1)]
    rows: list[dict[str, str]] = []
    for one in comparison.contestants:
        row = {"purifier": one.run.label + (f" ({one.missing} verdicts missing)" if one.missing else "")}
        for column in comparison.columns:
            row[column] = accuracy(one, column)
        row |= cost(one)
        row["published"] = f"{published(one)} [{quoted.index(one) + 1}]" if one in quoted else ""
        rows.append(row)
    filled = [key for key in (rows[0] if rows else ()) if any(row[key] for row in rows)]
    return filled, [[row[key] for key in filled] for row in rows], footnotes


def accuracy(contestant: Contestant, column: str) -> str:
    """Accuracy in %: clean and in the worst case with its interval, under an attack alone; and n if it is not all."""
    line = contestant.lines.get(column)
    if line is None:
        return ""
    whole = column == CLEAN or column.startswith(WORST)
    text = line.headline.text() if whole else f"{100 * line.headline.value:.1f}"
    return text if line.headline.n == contestant.run.images else f"{text}, n = {line.headline.n}"


def cost(contestant: Contestant) -> dict[str, str]:
    """What a purification costs, as text."""
    found = contestant.cost
    if found is None:
        return dict.fromkeys(("network calls", "s/image", "deterministic"), "")
    score, other = calls(*found.asked(True)), calls(*found.asked(False))
    return {
        "network calls": score + (f" [{other}]" if other != "0" else ""),
        "s/image": f"{found.seconds:.2g}",
        "deterministic": "yes" if found.deterministic else "no",
    }


def calls(forward: float, gradients: float) -> str:
    """Calls and gradients, "1856 + 1856"."""
    return f"{forward:g}" + (f" + {gradients:g}" if gradients else "")


def published(contestant: Contestant) -> str:
    """The nearest published numbers in short: clean / under the attack that leaves least; doubtful ones last."""
    cell = min((near.cell for near in contestant.papers), key=lambda cell: (bool(cell.doubtful), cell.robust))
    return f"{'?' if cell.clean is None else f'{cell.clean:g}'} / {cell.robust:g}"


def comparison_as_markdown(comparison: Comparison) -> str:
    """Write an aligned Markdown table with its notes."""
    head, body, footnotes = cells(comparison)
    table = markdown_table(head, body) + "\n" if body else ""
    return table + "\n\n".join(shown(note, "markdown") for note in [*comparison_notes(comparison), *footnotes]) + "\n"


def comparison_as_latex(comparison: Comparison) -> str:
    """Write a LaTeX table (packages booktabs and graphicx) with its notes as caption and below."""
    head, body, footnotes = cells(comparison)
    caption, *others = comparison_notes(comparison)
    return latex_table(head, body, 0, caption, [*others, *footnotes])


def comparison_as_csv(comparison: Comparison) -> str:
    """Write a line for every purifier, attack and semantics, as in a report, with costs and published numbers beside.

    `published` is the number of that very setting, `nearest_robust` one that differs in what `nearest_differs` names.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, (*CSV_HEAD, *COST_HEAD, *NEAREST_HEAD), lineterminator="\n")
    writer.writeheader()
    for one in comparison.contestants:
        for row in csv.DictReader(io.StringIO(as_csv(Report((one.run,))))):
            writer.writerow({**row, **costs_of(one), **nearest_of(one, row["attack"])})
    return out.getvalue()


def costs_of(contestant: Contestant) -> dict[str, object]:
    """The columns of costs."""
    found = contestant.cost
    if found is None:
        return {"missing": contestant.missing}
    numbers = (*found.asked(True), *found.asked(False), found.seconds)
    texts = [f"{number:.6g}" for number in numbers]
    values = (contestant.missing, *texts, "yes" if found.deterministic else "no")
    return dict(zip(COST_HEAD, values, strict=True))


def nearest_of(contestant: Contestant, attack: str) -> dict[str, object]:
    """The columns of the nearest published number beside an attack."""
    for near in contestant.papers:
        if near.attack == attack:
            cell = near.cell
            clean = "" if cell.clean is None else f"{cell.clean:g}"
            differs = shown("; ".join(near.differences.values()), "csv")
            values = cell.attack, clean, f"{cell.robust:g}", cell.label, differs
            return dict(zip(NEAREST_HEAD, values, strict=True))
    return {}


def save_comparison(comparison: Comparison, folder: str | Path) -> None:
    """Write comparison.md, comparison.csv, comparison.tex and, if there are rows, comparison.png into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writers = {"md": comparison_as_markdown, "csv": comparison_as_csv, "tex": comparison_as_latex}
    for suffix, write in writers.items():
        (folder / f"comparison.{suffix}").write_text(write(comparison), encoding="utf-8")
    if comparison.columns:
        comparison_figure(comparison).savefig(folder / "comparison.png", bbox_inches="tight")
