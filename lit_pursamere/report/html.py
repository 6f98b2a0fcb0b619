"""A report as one page: table, cautions, curves, pictures, audit, cost, configuration and environment.

The page is one file that loads nothing and runs nothing: pictures are in it, and its policy forbids everything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lit_pursamere import __version__
from lit_pursamere.report.attached import SEARCH, audit_of, configuration, pictures, starts
from lit_pursamere.report.costs import cost_cells, cost_notes
from lit_pursamere.report.drawing import beside, figure_content
from lit_pursamere.report.formats import cells, remarks
from lit_pursamere.report.html_parts import bullets, code, figure, paragraph, section, table, text
from lit_pursamere.report.lines import WORST, Line
from lit_pursamere.report.plots import FIGURES
from lit_pursamere.report.report import Report
from lit_pursamere.report.runs import Run
from lit_pursamere.report.verdicts import CLEAN
from lit_pursamere.store.costs import read_cost

__all__ = ["as_html"]

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
CAPTIONS = {
    "worst-case": "Accuracy on clean images, under every attack, and in the worst case over attacks.",
    "roc": "ROC of the detector: attacked images rejected against clean ones rejected.",
    "statistic": "Statistic of the detector on clean and on attacked images, with the area under the ROC curve.",
    "accuracy-eps": "Accuracy against the budget of an attack.",
    "accuracy-steps": "Accuracy against the steps of an attack.",
    "survival": "Images that an attack has not fooled yet, step by step.",
}
NAMING = ("run", "system", "attack")  # columns that name a row


def as_html(report: Report, audit: Path | None = None) -> str:
    """Write a page.

    Args:
        report: One or several runs.
        audit: Folder of an audit of the first run; None: `audit` in its folder, if it is there.

    Raises:
        FileNotFoundError: If there is no audit in the folder that is named.
        ValueError: If an audit is of another defence.
    """
    title = f"{', '.join(dict.fromkeys(run.system for run in report.runs))} on {report.runs[0].data or 'images'}"
    body = [
        _header(report, title),
        "<main>",
        section("Accuracy", _table(report), _cautions(report), bullets(_notes(report), "notes")),
        section("Paired comparison", _pairs(report)),
        section("Figures", *_figures(report)),
        section("Images", *_pictures(report)),
        section("Audit", *_audit(report, audit)),
        section("Cost", *_cost(report)),
        section("Configuration and environment", *_origins(report)),
        "</main>",
        f"<footer>Made by lit_pursamere {text(__version__)}. Nothing in this page is loaded from elsewhere.</footer>",
    ]
    return "\n".join(["<!doctype html>", '<html lang="en">', _head(title), "<body>", *filter(None, body), "</body>",
                      "</html>", ""])  # fmt: skip


def _head(title: str) -> str:
    return "\n".join(
        [
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>",
            "</head>",
        ]
    )


def _header(report: Report, title: str) -> str:
    told = "; ".join(f"{run.label}: {run.images} images{_date(run)}" for run in report.runs)
    items = "\n".join(_result(report, line) for line in _headlines(report))
    parts = ["<header>", f"<h1>{text(title)}</h1>", paragraph(told, "quiet"), '<ul class="results">', items, "</ul>"]
    return "\n".join([*parts, "</header>"])


def _date(run: Run) -> str:
    times = [start["time"] for start in starts(run) if "time" in start]
    return f", {times[-1][:16].replace('T', ' ')}" if times else ""


def _headlines(report: Report) -> Iterator[Line]:
    """Of every system of every run the last line: its worst case, or its clean accuracy; the purifier's first."""
    lines = {(line.run.label, line.system): line for line in report.lines}
    yield from sorted(lines.values(), key=lambda line: line.system != line.run.system)


def _result(report: Report, line: Line) -> str:
    value, _, interval = line.headline.text(report.interval).partition(" ")
    what = f"in the {line.attack}" if line.attack.startswith(WORST) else line.attack
    return (
        f"<li><span>{text(report.system_of(line))}</span><strong>{text(value)} %</strong>"
        f"<span>right {text(what)}, {text(interval)}, n = {line.headline.n}</span></li>"
    )


def _table(report: Report) -> str:
    head, body = cells(report.columns)
    caption = "Accuracy in % of every system under every attack, with 95 % intervals"
    return table(head, body, caption, sum(name in NAMING for name in head), WORST)


def _cautions(report: Report) -> str:
    listed = bullets(caution.removeprefix("Caution: ") for caution in report.cautions)
    return f'<div class="cautions" role="note">\n<h3>Read with care</h3>\n{listed}\n</div>' if listed else ""


def _notes(report: Report) -> list[str]:
    return [note for note in remarks(report) if note not in report.cautions]


def _pairs(report: Report) -> str:
    head, body = cells(report.pair_columns)
    caption = f"Against {report.runs[0].label}, on the same images: difference in points with 95 % intervals"
    return table(head, body, caption, sum(name in NAMING for name in head), WORST) if body else ""


def _figures(report: Report) -> Iterator[str]:
    for name, draw in FIGURES.items():
        with beside(f"figure {name} in the page"):
            content = figure_content(draw(report), "svg")
            yield figure(
                content, "svg+xml", CAPTIONS[name], f"{CAPTIONS[name]} The numbers stand in the table.", "plot"
            )


def _pictures(report: Report) -> Iterator[str]:
    for run in report.runs:
        for what, content in pictures(run).items():
            style = "plot" if what == SEARCH else "picture"
            yield figure(content, "png", f"{run.label}: {what}" if report.several else what, what, style)


def _audit(report: Report, folder: Path | None) -> Iterator[str]:
    for number, run in enumerate(report.runs):
        found = audit_of(run, folder if number == 0 else None)
        if found and report.several:
            yield f"<h3>{text(run.label)}</h3>"
        for part in found:
            yield paragraph(part) if isinstance(part, str) else table(part[0], part[1:], "Checks of the audit")


def _cost(report: Report) -> Iterator[str]:
    with beside("cost of a purification in the page"):
        costs = {run.label: cost for run in report.runs if (cost := read_cost(run.folder))}
        rows = [(label, *cost_cells(cost).values()) for label, cost in costs.items()]
        if rows:
            yield table(("run", *cost_cells(None)), rows, "Cost of one purification")
            yield bullets(cost_notes(costs), "notes")
    for run in report.runs:
        seconds = sum(float(row["seconds"]) for row in run.rows if row.get("seconds") is not None)
        verdicts = sum(row["attack"] != CLEAN for row in run.rows)
        if seconds:
            where = f" of {run.label}" if report.several else ""
            yield paragraph(f"Attacks and verdicts{where} took {_duration(seconds)}, for {verdicts} attacked images.")


def _duration(seconds: float) -> str:
    """A time as one says it: "12 s", "3.5 min", "7.2 h"."""
    unit, size = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if seconds >= 2 * s), ("s", 1))
    return f"{seconds / size:.3g} {unit}"


def _origins(report: Report) -> Iterator[str]:
    for run in report.runs:
        if report.several:
            yield f"<h3>{text(run.label)}</h3>"
        found = starts(run)
        if found:
            again = f" (the last of {len(found)} starts)" if len(found) > 1 else ""
            yield table(("setting", "value"), [*found[-1].items()], f"Command, versions and hardware{again}")
        yield code(configuration(run), "config.yaml, which repeats this run: lit-pursamere test --config config.yaml")
