"""Reports: from rows to accuracies with intervals, tables, figures, and what papers report."""

from lit_pursamere.report.formats import FORMATS, as_csv, as_latex, as_markdown, save_report, write_report
from lit_pursamere.report.report import Report, make_report
from lit_pursamere.report.runs import Run, read_runs
from lit_pursamere.report.statistics import INTERVALS, Accuracy
from lit_pursamere.report.verdicts import SEMANTICS, accuracies, worst_cases

__all__ = [
    "FORMATS",
    "INTERVALS",
    "SEMANTICS",
    "Accuracy",
    "Report",
    "Run",
    "accuracies",
    "as_csv",
    "as_latex",
    "as_markdown",
    "make_report",
    "read_runs",
    "save_report",
    "worst_cases",
    "write_report",
]
