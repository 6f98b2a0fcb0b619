"""Tables from records: accuracy per system and attack, with n and 95 % intervals.

last   verdict at the attack's final iterate: what most published tables report
any    wrong at any visited iterate counts as broken: what a deterministic defence must survive

Where verdicts were given more than once, `last` and `any` are means over the evaluations, and beside them stand

worst  right at every evaluation      vote  right at more than half of them
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lit_pursamere.manifest import read_manifest
from lit_pursamere.results.records import Row, read_rows
from lit_pursamere.results.statistics import Accuracy

__all__ = ["SEMANTICS", "accuracies", "as_csv", "as_markdown", "write_report"]

SEMANTICS = tuple(f"{iterate}{verdict}" for iterate in ("last", "any") for verdict in ("", " worst", " vote"))
Table = dict[tuple[str, str, str], Accuracy]  # (system, attack, semantics) -> accuracy


def accuracies(rows: Sequence[Row]) -> Table:
    """Accuracy for every system, attack and success semantics (`last`, `any worst`, ...) that the rows hold."""
    counts: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        for iterate in ("last", "any"):
            votes, evaluations = row.get(f"votes_{iterate}"), row["evaluations"]
            if votes is None:
                continue
            verdicts = {iterate: votes / evaluations}
            if evaluations > 1:
                verdicts |= {f"{iterate} worst": votes == evaluations, f"{iterate} vote": 2 * votes > evaluations}
            for semantics, correct in verdicts.items():
                cell = counts.setdefault((str(row["system"]), str(row["attack"]), semantics), [0.0, 0])
                cell[0] += correct
                cell[1] += 1
    return {key: Accuracy(correct, int(n)) for key, (correct, n) in counts.items()}


def _columns(table: Table, order: Sequence[str]) -> list[tuple[str, str]]:
    """(attack, semantics) pairs in the given order, then by name; `any` only where some system has it."""
    rank = {name: position for position, name in enumerate(("clean", *order))}
    attacks = sorted({attack for _, attack, _ in table}, key=lambda name: (rank.get(name, len(rank)), name))
    found = {(attack, semantics) for _, attack, semantics in table}
    return [(a, s) for a in attacks for s in SEMANTICS if (a, s) in found]


def _cells(table: Table, order: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    columns = _columns(table, order)
    head = [
        "system",
        *(name if (name, semantics) == ("clean", "last") else f"{name} ({semantics})" for name, semantics in columns),
        "n",
    ]
    systems = sorted({system for system, _, _ in table}, key=lambda name: (name != "undefended", name))
    body = []
    for system in systems:
        found = [table.get((system, *column)) for column in columns]
        sizes = sorted({cell.n for cell in found if cell is not None})
        n = "-".join(str(size) for size in sizes[:1] + sizes[1:][-1:])
        body.append([system, *("" if cell is None else str(cell) for cell in found), n])
    return head, body


def as_markdown(table: Table, order: Sequence[str] = ()) -> str:
    """Markdown table: accuracy in % with its 95 % interval; attacks in the given order, others by name."""
    head, body = _cells(table, order)
    widths = [max(len(row[i]) for row in (head, *body)) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in (head, *body)]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def as_csv(table: Table) -> str:
    """CSV: system, attack, semantics, correct, n, accuracy, low, high."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["system", "attack", "semantics", "correct", "n", "accuracy", "low", "high"])
    for (system, attack, semantics), cell in sorted(table.items()):
        low, high = cell.interval
        writer.writerow([system, attack, semantics, f"{cell.correct:g}", cell.n,
                         f"{cell.value:.6f}", f"{low:.6f}", f"{high:.6f}"])  # fmt: skip
    return out.getvalue()


def write_report(folder: str | Path) -> str:
    """Write report.md and report.csv beside the records of an evaluation; returns the Markdown."""
    folder = Path(folder)
    table = accuracies(read_rows(folder))
    order = list((read_manifest(folder) or {}).get("attacks", ()))
    markdown = as_markdown(table, order)
    (folder / "report.md").write_text(markdown, encoding="utf-8")
    (folder / "report.csv").write_text(as_csv(table), encoding="utf-8")
    return markdown
