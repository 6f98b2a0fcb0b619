"""Results: per-image records, statistics, tables and figures."""

from lit_pursamere.results.formats import FORMATS, as_csv, as_latex, as_markdown, save_report, write_report
from lit_pursamere.results.records import Records, read_rows
from lit_pursamere.results.report import Report, make_report
from lit_pursamere.results.runs import Run, read_runs
from lit_pursamere.results.statistics import INTERVALS, Accuracy
from lit_pursamere.results.verdicts import SEMANTICS, accuracies, worst_cases

__all__ = [
    "FORMATS",
    "INTERVALS",
    "SEMANTICS",
    "Accuracy",
    "Records",
    "Report",
    "Run",
    "accuracies",
    "as_csv",
    "as_latex",
    "as_markdown",
    "make_report",
    "read_rows",
    "read_runs",
    "save_report",
    "worst_cases",
    "write_report",
]
