"""`lit-pursamere report`: the table of test runs again."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from lit_pursamere.report import FORMATS, INTERVALS, ON_REQUEST, Report, make_report, save_report
from lit_pursamere.report.certified import attacked_of, read_certified
from lit_pursamere.report.certified_table import FORMATS as CERTIFIED
from lit_pursamere.report.certified_table import save_certified
from lit_pursamere.report.html import as_html
from lit_pursamere.report.plots import save_plots
from lit_pursamere.report.runs import labels_of
from lit_pursamere.report.saving import save
from lit_pursamere.store.certificates import Certificates

__all__ = ["report"]

FILES = ("html", "parquet")  # formats that are no text for a terminal


def report(
    runs: list[Path],
    format: Literal[tuple(FORMATS | ON_REQUEST)] = "markdown",  # type: ignore[valid-type]
    interval: Literal[tuple(INTERVALS)] = "wilson",  # type: ignore[valid-type]
    mix: bool = False,
    figures: bool = False,
    output: Path | None = None,
    audit: Path | None = None,
) -> None:
    """Print the table of test runs, and write report.md, report.csv and report.tex beside the records.

    Several runs come into one table, which is written only if --output says where; on the same images the first is
    compared with each of the others, image by image. `html` is one page with everything, report.html.

    With a folder of `lit-pursamere certify` it is the table of certificates, and the other runs what attacks in l2 on
    the smoothed classifier left; certified.md, .csv and .png are written.

    Args:
        runs: Output folders of `lit-pursamere test`, or of `certify`.
        format: What to print; html and parquet are written, beside the records or to --output.
        interval: The 95 % interval.
        mix: Allow runs that differ in more than systems and attacks.
        figures: Draw accuracies and survival as PNG as well.
        output: Folder to write to (default: that of a single run).
        audit: For html: folder of an audit of the first run (default: `audit` in its folder, if that is there).

    Raises:
        FileNotFoundError: If a run or the audit is not there.
        ValueError: If a file has no folder, runs are not comparable, or an option does not go with the format.
    """
    folder = output or (runs[0] if len(runs) == 1 else None)
    if certified := [run for run in runs if Certificates.has_rows(run)]:
        return of_certificates(certified, [run for run in runs if run not in certified], format, interval, folder)
    if folder is None and (figures or format in FILES):
        what = f"report.{format}" if format in FILES else "the figures"
        raise ValueError(f"where should {what} of {len(runs)} runs go? Say --output DIR")
    if audit is not None and format != "html":
        raise ValueError(f"an audit is shown by --format html; got --audit {audit} with --format {format}")
    table = make_report(runs, interval, mix)
    content = as_html(table, audit) if format == "html" else (FORMATS | ON_REQUEST)[format][1](table)
    if folder is not None:
        write(table, folder, format, content)
    if isinstance(content, str) and format not in FILES:
        print(content, end="")
    if figures and folder is not None:
        for file in save_plots(table, folder):
            print(f"wrote {file}", file=sys.stderr)  # beside the table, which may go into a file


def write(table: Report, folder: Path, format: str, content: str | bytes) -> None:
    """Write the tables into a folder, and with them a format that is made on request."""
    save_report(table, folder)
    if format in ON_REQUEST:
        file = save(content, folder / f"{table.name}.{ON_REQUEST[format][0]}")
        print(f"wrote {file}", file=sys.stderr)


def of_certificates(
    certified: list[Path], attacked: list[Path], format: str, interval: str, folder: Path | None
) -> None:  # fmt: skip
    """Print the table of certificates, and write it and its figure into a folder, if there is one."""
    if format not in CERTIFIED:
        raise ValueError(f"certificates are shown as {' or '.join(CERTIFIED)}; got --format {format}")
    runs = [read_certified(run, label) for run, label in zip(certified, labels_of(certified), strict=True)]
    beside = attacked_of(attacked)
    if folder is not None:
        save_certified(runs, beside, folder, interval)
    print(CERTIFIED[format][1](runs, beside, interval), end="")
